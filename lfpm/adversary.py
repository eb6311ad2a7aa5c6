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
from benchmark.optimisation.prompts import Pool, new_pool
from benchmark.optimisation.unlabelled import Batch, Unlabelled
from benchmark.types import StateDict
from lfpm.losses import Energy
from lfpm.partition import Partition, captured, fit
from lfpm.path import at
from lfpm.vector import Form

if TYPE_CHECKING:
    from lfpm.method import Lfpm


UNFITTED = 20
"""Images per task that tell what a partition without a fit captures."""


@dataclass(frozen=True)
class Problem:
    """What stays fixed while tau_a is trained.

    Attributes:
        method: every choice.
        encoder: the image tower.
        merged: theta_m, frozen.
        data: the training images of every task with theta_m's word on them.
        unit: mean squared norm of theta_m's features.
        form: what is trained, and the tau_a it stands for.
        uploads: per task, the models of its contributors.
    """

    method: Lfpm
    encoder: Encoder
    merged: StateDict
    data: Unlabelled
    unit: float
    form: Form
    uploads: tuple[tuple[StateDict, ...], ...]


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
    weights = attacked(problem, tau, step, ctx)
    pool = adversary.pool
    if _due(method.mining.restart, step):
        pool = _fresh_pool(problem, adversary.energy, weights, step, ctx)
    rng = ctx.rng("mining", step)
    pool = mined(problem, pool, adversary.energy, weights, method.mining.steps, rng)
    if _due(method.partition.refresh, step):
        return _partitioned(problem, pool, weights, ctx.rng("fit", step))
    return replace(adversary, pool=pool)


def attacked(
    problem: Problem, tau: Mapping[str, Tensor], step: int, ctx: Context
) -> Mapping[str, Tensor]:
    """The weights that are mined against in this step: theta_m + alpha tau_a."""
    alpha = 1.0
    if problem.method.mining.at == "path":
        alpha = float(torch.rand((), generator=ctx.rng("mining alpha", step)))
    return at(problem.merged, tau, alpha)


def _due(every: int, step: int) -> bool:
    return every > 0 and step > 0 and step % every == 0


def _fresh_pool(
    problem: Problem, energy: Energy, weights: StateDict, step: int, ctx: Context
) -> Pool:
    """A new pool after its warm-up."""
    mining = problem.method.mining
    rng = ctx.rng("pool", step)
    pool = new_pool(mining.prompts, problem.data.classes, problem.data.image_side, rng, ctx.device)
    if mining.scouting:
        pool = _scouted(problem, pool, mining.scouting, rng, ctx)
    return mined(problem, pool, energy, weights, mining.warmup, rng)


def _scouted(problem: Problem, pool: Pool, steps: int, rng: torch.Generator, ctx: Context) -> Pool:
    """The pool after ascent on the contributors' models; those of one task take turns."""
    heads = [
        ctx.heads[task] for task in problem.data.tasks
    ]  # an adapter is the merge's, not theirs
    for step in range(steps):
        turn = [own[step % len(own)] for own in problem.uploads]
        pool = mine(problem.encoder, turn, problem.data, pool, 1, rng, heads=heads)
    return pool.moved_on()


def mined(
    problem: Problem,
    pool: Pool,
    energy: Energy,
    weights: StateDict,
    steps: int,
    rng: torch.Generator,
) -> Pool:
    """The pool after some ascent steps towards its goals and on adversarial feature energy.

    The shift is taken from theta_m's clean feature, which is at hand; the spec takes it from the
    present model's, for one more forward pass.
    """
    eta = problem.method.mining.feature_weight

    def extra(features: Tensor, batch: Batch) -> Tensor:
        return eta * energy.adversarial(features - batch.features, batch)

    return mine(problem.encoder, weights, problem.data, pool, steps, rng, extra if eta else None)


def _partitioned(
    problem: Problem, pool: Pool, weights: StateDict, rng: torch.Generator
) -> Adversary:
    """Partitions fitted to the shift of the training images; `UNFITTED` of them where none is."""
    parts, shares = [], []
    kind = problem.method.partition
    count = None if kind.fitted else UNFITTED
    labels = [problem.data.labels(task)[:count] for task in problem.data.tasks]
    given = pool.assign(labels, rng)
    rows = torch.arange(len(given.members)).split([len(own) for own in labels])
    for (task, images), chosen in zip(problem.data.images.items(), rows, strict=True):
        own = problem.data.features[task][:count]
        with torch.no_grad():
            shown = pool.apply(images[:count].float() / 255, given.rows(chosen))
            prompted = problem.encoder(weights, shown)
        parts.append(fit(kind, own, prompted - own))
        shares.append(captured(parts[-1], own, prompted - own))
    return Adversary(pool, Energy(parts, problem.unit), sum(shares) / len(shares))
