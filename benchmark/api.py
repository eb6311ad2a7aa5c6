"""The benchmark from Python: merge plain state dicts, list options, run one cell.

Example:
    from benchmark import api
    merged = api.merge("ties", base, {"cars": cars, "signs": signs}, density=0.2)
    record = api.run(["attack=badnets", "merge=ties", "defense=lfpm"])
    record.main.threats[0].asr.rate
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.components import build, locate, option
from benchmark.components import options as options
from benchmark.context import Context
from benchmark.errors import AccessDenied, BenchError
from benchmark.records import Record
from benchmark.types import Expert, StateDict

__all__ = ["merge", "options", "run"]


def merge(
    name: str,
    base: StateDict,
    finetuned: Mapping[str, StateDict],
    *,
    seed: int = 0,
    **params: Any,
) -> dict[str, Any]:
    """Merge fine-tuned weights of any one architecture.

    Args:
        name: one of options("merge").
        base: the pre-trained weights.
        finetuned: task -> fine-tuned weights (not differences), with the keys and shapes of `base`.
        seed: for merges that draw.
        params: values that differ from conf/merge/<name>.yaml.

    Returns:
        The merged weights, with the keys, shapes and dtypes of `base`.

    Raises:
        IncompatibleWeights: keys or shapes differ, or a value is not finite; names the first three.
        AccessDenied: the merge needs images; run it as a cell instead.
    """
    node = {**option("merge", name), **params}
    if "defaults" in node or "${" in json.dumps(node, default=str):
        raise AccessDenied(f"merge '{name}' needs more than weights: run it as a cell")
    method = build(node, "merge")
    experts = [Expert(task, weights, f"api/{task}") for task, weights in finetuned.items()]
    if not experts:
        raise BenchError("finetuned={} holds no model; give at least one task: weights")
    reason = method.accepts(experts)
    if reason:
        raise BenchError(f"merge '{name}' cannot merge these: {reason}")
    return dict(method(base, experts, _weights_only(node["_target_"], seed)).encoder)


def _weights_only(target: str, seed: int) -> Context:
    """A context without images, heads or a store."""

    def refuse(*_: Any) -> Any:
        raise AccessDenied(f"{locate(target).__name__} needs more than weights: run it as a cell")

    return Context(
        role=("merge", target),
        seed=seed,
        encoder=None,  # type: ignore[arg-type]
        heads={},
        recipe=None,  # type: ignore[arg-type]
        peft=None,
        device="cpu",
        granted=(),
        visible=frozenset(),
        scope={},
        progress=lambda done, total: None,
        _split=refuse,
        _stage=refuse,
    )


def run(words: Sequence[str]) -> Record:
    """Run one cell, as `lfpm-bench run WORDS` does, shown by its tracker; return its record.

    Call it below `if __name__ == "__main__":` in a script: it starts worker processes.
    """
    from benchmark import config, pipeline
    from benchmark.cell import cell_from
    from benchmark.display import display
    from benchmark.store import Store
    from benchmark.tracking.settings import tracker_from

    plan = config.plan(words)
    if plan is None or len(plan.configs) != 1:
        raise BenchError(f"{list(words)} is not one cell; sweeps belong on the command line")
    cell, store = cell_from(plan.configs[0]), Store(plan.runtime["store"])
    with tracker_from(plan.runtime["tracker"]).opened(store, words) as tell:
        done = pipeline.run([cell], store, plan.runtime["launcher"], display, tell=tell)
    return done.records[0]
