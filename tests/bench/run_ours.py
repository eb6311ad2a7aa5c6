"""Our merges, measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from baselines.merging.adamerging import combined, projected
from benchmark.components import build, option
from benchmark.types import Expert
from tests import tiny
from tests.bench.timing import Run, Weights, serve

SCALE = {"scale": 0.3}


def merge(name: str, **values: Any) -> Run:
    """A merge as its YAML has it, but for the values that the peers must share."""

    def prepare(base: Weights, experts: list[Weights]) -> Callable[[], Any]:
        part = build({**option("merge", name), **values}, "merge")
        ctx = tiny.context(part)
        named = [Expert(f"task{index}", one, str(index)) for index, one in enumerate(experts)]
        return lambda: part(base, named, ctx)

    return prepare


def knots_ties(base: Weights, experts: list[Weights]) -> Callable[[], Any]:
    """KnOTS takes LoRA experts: names of factors say which matrices were adapted."""
    part = build(option("merge", "knots_ties"), "merge")
    factors = {f"{name}/A": torch.zeros(1) for name in base}
    named = [Expert(f"task{i}", one, str(i), factors) for i, one in enumerate(experts)]
    ctx = tiny.context(part)
    return lambda: part(base, named, ctx)


def adamerging_step(base: Weights, experts: list[Weights]) -> Callable[[], Tensor]:
    """One step of layer-wise AdaMerging without the images: merge, gradients' sum, projection.

    The experts' weights stand in for the tasks' gradients by the merged weights.
    """
    names = sorted(base)
    vectors = {
        name: torch.stack([(one[name] - base[name]).flatten() for one in experts]) for name in names
    }
    coefficients = torch.full((len(experts), len(names)), 0.3)

    def step() -> Tensor:
        merged = combined(base, vectors, coefficients)
        sums = {name: torch.zeros_like(value) for name, value in merged.items()}
        for gradient in experts:
            for name, total in sums.items():
                total += gradient[name]
        return projected(vectors, sums)

    return step


def copy(base: Weights, experts: list[Weights]) -> Callable[[], Weights]:
    """What the machine can do: every expert copied to a place that is already there."""
    place = {name: torch.zeros_like(value) for name, value in base.items()}

    def run() -> Weights:
        for one in experts:
            for name, value in place.items():
                value.copy_(one[name])
        return place

    return run


RUNS: dict[str, Run] = {
    "copy": copy,
    "simple_average": merge("simple_average"),
    "task_arithmetic": merge("task_arithmetic", **SCALE),
    "ties": merge("ties", density=0.2, trim="global", combine="sum", **SCALE),
    "ties_per_tensor": merge("ties", density=0.2, trim="per_tensor", combine="sum", **SCALE),
    "dare_ta": merge("dare_ta", drop=0.5, **SCALE),
    "dare_ties": merge("dare_ties", drop=0.5, density=0.2, combine="sum", **SCALE),
    "breadcrumbs": merge("breadcrumbs", density=0.15, outliers=0.006, trim="per_tensor", **SCALE),
    "consensus": merge("consensus"),
    "pcb": merge("pcb"),
    "lines": merge("lines"),
    "model_stock": merge("model_stock"),
    "tsv_m": merge("tsv_m"),
    "iso_c": merge("iso_c"),
    "iso_cts": merge("iso_cts"),
    "knots_ties": knots_ties,
    "adamerging_step": adamerging_step,
}

if __name__ == "__main__":
    serve(RUNS)
