"""The line from the undefended to the defended model, measured: not one lucky point of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from benchmark.evaluation import Hits, TestSet, evaluate
from benchmark.records import Point
from benchmark.types import Model, StateDict, Threat

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Progress
    from benchmark.models.encoder import Encoder


def blend(start: StateDict, end: StateDict, scale: float) -> dict[str, Tensor]:
    """θ(s) = start + s (end - start); at 0 and 1 the ends themselves, bit for bit."""
    if start.keys() != end.keys():
        raise ValueError(f"models differ in {sorted(start.keys() ^ end.keys())[:3]}")
    # lerp counts from the nearer end, so neither end is a rounded one.
    return {name: torch.lerp(value, end[name], scale) for name, value in start.items()}


def between(start: Model, end: Model, scale: float) -> Model:
    """The model at s: encoder and adapters blended. A missing adapter counts as `up` = 0."""
    adapters: dict[str, StateDict] = {}
    for task in {**start.adapters, **end.adapters}:
        first, last = start.adapters.get(task), end.adapters.get(task)
        adapters[task] = blend(first or _off(last or {}), last or _off(first or {}), scale)
    return Model(blend(start.encoder, end.encoder, scale), adapters)


def _off(adapter: StateDict) -> dict[str, Tensor]:
    """The same adapter, switched off."""
    return {**adapter, "up": torch.zeros_like(adapter["up"])}


def measure_line(
    encoder: Encoder,
    ends: tuple[Model, Model],
    scales: Sequence[float],
    tests: Mapping[str, TestSet],
    threats: Sequence[Threat],
    *,
    progress: Progress | None = None,
) -> tuple[tuple[Point, ...], Hits]:
    """Evaluate θ(s) at every scale; no flips.

    Args:
        encoder: the image tower.
        ends: the models at s = 0 and at s = 1.
        scales: s, each once.
        tests: task -> test set.
        threats: the triggers to try.
        progress: called with (points done, points).

    Returns:
        The points in the order of `scales`, and the hits of each under `<s>/...`.
    """
    points, hits = [], {}
    for done, scale in enumerate(scales):
        model = between(*ends, scale)
        counts, found = evaluate(
            encoder, model.encoder, tests, threats, adapters=model.adapters, flip_images=0
        )
        points.append(Point(scale, counts))
        hits |= {f"{scale}/{name}": hit for name, hit in found.items()}
        if progress is not None:
            progress(done + 1, len(scales))
    return tuple(points), hits
