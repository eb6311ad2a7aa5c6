"""The choice of lambda_a on clean held-out images: no trigger, no label, no test image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from benchmark.context import Context
from benchmark.optimisation.mining import mine, reached
from benchmark.optimisation.prompts import Pool, new_pool, shuffled
from benchmark.optimisation.unlabelled import Batch, Unlabelled
from benchmark.types import StateDict
from lfpm.choices import Selection


@dataclass(frozen=True)
class Trial:
    """What one candidate did on the held-out images.

    Attributes:
        scale: lambda_a.
        reached: mean over tasks of the share of images that adapted prompts bring to their goal
            (away from the label: less the share that the same prompts with shuffled pixels bring
            there); in [-1,1]. None without probes.
        agreement: share of clean predictions equal to the undefended model's, in [0,1].
    """

    scale: float
    reached: float | None
    agreement: float


@dataclass(frozen=True)
class Choice:
    """The chosen lambda_a, whether both bounds held, the undefended model, and every trial made."""

    scale: float
    met: bool
    undefended: Trial
    trials: tuple[Trial, ...]

    def summary(self) -> dict[str, object]:
        """As plain JSON."""
        tried = (self.undefended, *self.trials)
        return {"met": self.met, "trials": [asdict(trial) for trial in tried]}


def choose(rule: Selection, tried: Callable[[float], Trial]) -> Choice:
    """The rule of `Selection`: the largest that agrees; with probes, the smallest that is safe."""
    if rule.reach is None:
        return _largest(rule, tried)
    trials: list[Trial] = []
    undefended = tried(0.0)
    bound = rule.reach * max(undefended.reached or 0.0, 0.0)
    for scale in rule.grid:
        trials.append(tried(scale))
        reached = trials[-1].reached
        safe = reached is not None and reached <= bound
        if safe and trials[-1].agreement >= rule.agreement:
            return Choice(scale, True, undefended, tuple(trials))
    agreeing = [trial.scale for trial in trials if trial.agreement >= rule.agreement]
    return Choice(max(agreeing, default=rule.grid[0]), False, undefended, tuple(trials))


def _largest(rule: Selection, tried: Callable[[float], Trial]) -> Choice:
    """The largest of the grid that keeps the agreement; nothing below it is looked at."""
    undefended = Trial(0.0, None, 1.0)
    trials: list[Trial] = []
    for scale in reversed(rule.grid):
        trials.append(tried(scale))
        if trials[-1].agreement >= rule.agreement:
            return Choice(scale, True, undefended, tuple(trials))
    return Choice(rule.grid[0], False, undefended, tuple(trials))


Look: TypeAlias = "Callable[[float, StateDict], Trial]"
"""(lambda_a, theta_m + lambda_a tau_a) -> what it did."""


def looks(rule: Selection, merged: StateDict, data: Unlabelled, ctx: Context) -> Look:
    """How a candidate is looked at, with fresh probes or without."""
    if rule.reach is None:
        batch = data.first(rule.images)

        def look(scale: float, weights: StateDict) -> Trial:
            return Trial(scale, None, _agreement(ctx, weights, batch))

        return look
    probes = fresh_probes(rule, merged, data, ctx)
    return lambda scale, weights: trial(scale, weights, probes, ctx)


@dataclass(frozen=True)
class Probes:
    """Fresh prompts that every candidate is probed with.

    Attributes:
        data: held-out images with theta_m's word on them.
        pool: mined against theta_m.
        rule: how to probe.
    """

    data: Unlabelled
    pool: Pool
    rule: Selection


def fresh_probes(rule: Selection, merged: StateDict, data: Unlabelled, ctx: Context) -> Probes:
    """Prompts mined anew against theta_m on held-out images.

    They raise log p of their goals only, without the feature term: the partition is the training's
    own.
    """
    rng = ctx.rng("probes")
    pool = new_pool(rule.probe, data.classes, data.image_side, rng, ctx.device)
    return Probes(data, mine(ctx.encoder, merged, data, pool, rule.steps, rng), rule)


def trial(scale: float, weights: StateDict, probes: Probes, ctx: Context) -> Trial:
    """Probe theta_m + lambda_a tau_a with prompts adapted to it.

    Every candidate meets the same draws: only the weights differ.

    Args:
        scale: lambda_a, for the report.
        weights: theta_m + lambda_a tau_a.
        probes: where the prompts start.
        ctx: encoder and generators.
    """
    rng = ctx.rng("probe")
    pool = mine(ctx.encoder, weights, probes.data, probes.pool, probes.rule.adapt, rng)
    batch = probes.data.first(probes.rule.images)
    given = pool.assign(batch.labels, rng)
    clean = _predictions(ctx, weights, batch, batch.images)
    prompted = _predictions(ctx, weights, batch, pool.apply(batch.images, given))
    if given.goals is None:
        control = shuffled(pool, rng).apply(batch.images, given)
        occluded = _predictions(ctx, weights, batch, control)
        success = _differing(clean, prompted) - _differing(clean, occluded)
    else:
        success = _mean(reached(prompted, batch.labels, given))
    return Trial(scale, success, agreement=1 - _differing(clean, batch.labels))


def _agreement(ctx: Context, weights: StateDict, batch: Batch) -> float:
    """Share of clean predictions equal to the undefended model's, mean over tasks."""
    return 1 - _differing(_predictions(ctx, weights, batch, batch.images), batch.labels)


def _predictions(
    ctx: Context, weights: StateDict, batch: Batch, images: Tensor
) -> tuple[Tensor, ...]:
    features = ctx.features(weights, images)
    return tuple(scores.argmax(1) for scores in batch.logits(features))


def _differing(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Mean over tasks of the share of predictions that differ."""
    return _mean([one != other for one, other in zip(before, after, strict=True)])


def _mean(hits: Sequence[Tensor]) -> float:
    """Mean over tasks of the mean of (b,) bools."""
    return float(torch.stack([hit.float().mean() for hit in hits]).mean())
