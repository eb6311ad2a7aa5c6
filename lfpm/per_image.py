"""The plain alternative to prompts: a perturbation of its own for every image of a step (PGD)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmark.optimisation.mining import climbed
from benchmark.optimisation.prompts import Given, Pool, new_pool
from benchmark.optimisation.unlabelled import Batch
from benchmark.types import StateDict
from lfpm.choices import PerImage

if TYPE_CHECKING:
    from benchmark.context import Context
    from lfpm.adversary import Problem


def own_prompts(
    problem: Problem,
    rule: PerImage,
    batches: Sequence[Batch],
    weights: StateDict,
    ctx: Context,
    name: tuple[str, int],
) -> tuple[Pool, list[tuple[Batch, Given]]]:
    """A pool with one member for every image of these batches, raised against frozen weights.

    Projected gradient ascent (Madry et al. 2018) on the cross-entropy against theta_m's own
    predictions, from a uniform start in the ball.

    Args:
        problem: encoder and the temperature of its mining.
        rule: radius, steps and their length.
        batches: images that get one each.
        weights: what is attacked.
        ctx: generators and device.
        name: of the generator that draws where the ascent starts.

    Returns:
        The pool, and the batches with which member each image has.
    """
    settings = replace(
        problem.method.mining.prompts,
        frames=0,
        fulls=1,
        patches=0,
        goal="away",
        bound=rule.bound,
        start=1.0,
        optimiser="sign",
        lr=rule.lr,
    )
    counts = [len(batch.images) for batch in batches]
    classes = [1] * sum(counts)  # a pool gives every "task" members of its own: here every image
    pool = new_pool(settings, classes, problem.data.image_side, ctx.rng(*name), ctx.device)
    rows = torch.arange(sum(counts)).split(counts)
    shown = [
        (batch, Given(own, torch.zeros(len(own), 2, dtype=torch.int64), None))
        for batch, own in zip(batches, rows, strict=True)
    ]
    for _ in range(rule.steps):
        for batch, given in shown:
            pool = climbed(problem.encoder, weights, pool, batch, given)
    return pool, shown
