"""The adversarial side: prompts that are mined, and the subspace they shift features into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.context import Context
from benchmark.models.encoder import Encoder
from benchmark.optimisation.mining import mine
from benchmark.optimisation.prompts import Pool, assign, new_pool
from benchmark.optimisation.unlabelled import Batch, Unlabelled
from benchmark.types import StateDict
from lfpm.losses import Energy
from lfpm.partition import Partition, captured, fit
from lfpm.path import at

if TYPE_CHECKING:
    from lfpm.method import Lfpm


@dataclass(frozen=True)
class Problem:
    """What stays fixed while tau_a is trained.

    Attributes:
        method: every choice.
        encoder: the image tower.
        merged: theta_m, frozen.
        data: the training images of every task with theta_m's word on them.
        unit: mean squared norm of theta_m's features.
    """

    method: Lfpm
    encoder: Encoder
    merged: StateDict
    data: Unlabelled
    unit: float


@dataclass(frozen=True)
class Adversary:
    """Where mining stands.

    Attributes:
        pool: the prompts of all tasks.
        energy: the partition of feature space, per task.
        share: of the shift's energy that P_a captured at the last fit, mean over tasks.
    """

    pool: Pool
    energy: Energy
    share: float


def first_adversary(problem: Problem, ctx: Context) -> Adversary:
    """Prompts mined on theta_m alone, and the partition of the shift they cause."""
    # No shift is known yet: until the first fit, all but the sample's own feature is adversarial.
    unfitted = Energy([Partition("sample")] * len(problem.data.tasks), problem.unit)
    pool = _fresh_pool(problem, unfitted, problem.merged, 0, ctx)
    return _partitioned(problem, pool, problem.merged, ctx.rng("fit", 0))


def next_adversary(
    problem: Problem, adversary: Adversary, tau: Mapping[str, Tensor], step: int, ctx: Context
) -> Adversary:
    """Mining steps at a point of the path, so that prompts track what is left along it."""
    method = problem.method
    alpha = 1.0
    if method.mining.at == "path":
        alpha = float(torch.rand((), generator=ctx.rng("mining alpha", step)))
    weights = at(problem.merged, tau, alpha)
    pool = adversary.pool
    if _due(method.mining.restart, step):
        pool = _fresh_pool(problem, adversary.energy, weights, step, ctx)
    rng = ctx.rng("mining", step)
    pool = _mined(problem, pool, adversary.energy, weights, method.mining.steps, rng)
    if _due(method.partition.refresh, step):
        return _partitioned(problem, pool, weights, ctx.rng("fit", step))
    return replace(adversary, pool=pool)


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _fresh_pool(
    problem: Problem, energy: Energy, weights: StateDict, step: int, ctx: Context
) -> Pool:
    """A new pool after its warm-up."""
    mining = problem.method.mining
    tasks = len(problem.data.tasks)
    size = next(iter(problem.data.images.values())).shape[-1]
    rng = ctx.rng("pool", step)
    pool = new_pool(mining.prompts, tasks, size, rng, ctx.device)
    return _mined(problem, pool, energy, weights, mining.warmup, rng)


def _mined(
    problem: Problem,
    pool: Pool,
    energy: Energy,
    weights: StateDict,
    steps: int,
    rng: torch.Generator,
) -> Pool:
    """The pool after some ascent steps on cross-entropy and adversarial feature energy.

    The shift is taken from theta_m's clean feature, which is at hand; the spec takes it from the
    present model's, for one more forward pass.
    """
    eta = problem.method.mining.feature_weight

    def extra(features: Tensor, batch: Batch) -> Tensor:
        return eta * energy.adversarial(features - batch.features, batch)

    prompts, term = problem.method.mining.prompts, extra if eta else None
    return mine(problem.encoder, weights, problem.data, pool, steps, prompts, rng, term)


def _partitioned(
    problem: Problem, pool: Pool, weights: StateDict, rng: torch.Generator
) -> Adversary:
    """Partitions fitted to the shift of all training images."""
    parts, shares = [], []
    members = problem.method.mining.prompts.members
    for place, (task, images) in enumerate(problem.data.images.items()):
        own = problem.data.features[task]
        given = place * members + assign(1, len(images), members, rng)
        with torch.no_grad():
            prompted = problem.encoder(weights, pool.apply(images.float() / 255, given))
        parts.append(fit(problem.method.partition, own, prompted - own))
        shares.append(captured(parts[-1], own, prompted - own))
    return Adversary(pool, Energy(parts, problem.unit), sum(shares) / len(shares))
