"""Descent with a pass budget, looked at on clean images, and the point that is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from benchmark.training import cosine_rate
from benchmark.types import StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.context import Progress

Differentiate: TypeAlias = "Callable[[StateDict, int], None]"
"""(what moves, step): leaves a gradient in every tensor that moves."""
Judge: TypeAlias = "Callable[[StateDict], float]"
"""The clean criterion in [0,1] of a point, on the selection images."""


@dataclass(frozen=True)
class Schedule:
    """How a descent walks.

    Attributes:
        lr: peak learning rate of AdamW, reached after the warm-up; then a cosine to zero.
        weight_decay: AdamW's.
        warmup: share of the steps with a rising learning rate.
        steps: how many.
        checks: evenly spaced looks at the selection images after the first, which is the start.
    """

    lr: float
    weight_decay: float
    warmup: float
    steps: int
    checks: int


def descend(
    start: StateDict,
    schedule: Schedule,
    differentiate: Differentiate,
    judge: Judge,
    slack: float,
    start_counts: bool,
    progress: Progress,
) -> tuple[Tensors, list[list[float]]]:
    """The kept point and the (step, criterion) of every look.

    Args:
        start: what moves; not changed. Without steps it is returned, and nothing is looked at.
        schedule: see there.
        differentiate: the gradient of a step.
        judge: the clean criterion.
        slack: of the points whose criterion is within this of the best, the latest is kept.
        start_counts: whether the start is one of these points. Where the criterion is agreement
            with the start, it is 1 there by definition, and the start would often be all there is.
        progress: called with (steps done, steps in all).
    """
    moving = {name: value.detach().clone() for name, value in start.items()}
    if schedule.steps == 0:
        return moving, []
    leaves = [value.requires_grad_() for value in moving.values() if value.is_floating_point()]
    optimiser = torch.optim.AdamW(leaves, lr=schedule.lr, weight_decay=schedule.weight_decay)
    points = {round(part * schedule.steps / schedule.checks) for part in range(schedule.checks + 1)}
    curve: list[list[float]] = []
    kept: Tensors = {}
    for step in range(schedule.steps + 1):
        if step in points:
            now = {name: value.detach().clone() for name, value in moving.items()}
            curve.append([step, judge(now)])
            if within(curve if start_counts else curve[1:], slack):
                kept = now
        if step < schedule.steps:
            optimiser.param_groups[0]["lr"] = cosine_rate(
                schedule.lr, schedule.warmup, step, schedule.steps
            )
            optimiser.zero_grad()
            differentiate(moving, step)
            optimiser.step()
            progress(step + 1, schedule.steps)
    return kept, curve


def within(curve: list[list[float]], slack: float) -> bool:
    """Whether the last point is within `slack` of the best so far.

    The latest such point is the latest within `slack` of the best of all: a better point that comes
    later is itself within it.
    """
    # 1e-9: an agreement that is less by exactly the slack must not fail by a rounding error.
    return bool(curve) and curve[-1][1] >= max(value for _, value in curve) - slack - 1e-9
