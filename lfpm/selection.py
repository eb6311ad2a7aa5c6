"""The choice of lambda_a on clean held-out images: no trigger, no label, no test image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from benchmark.context import Context
from benchmark.optimisation.mining import mine
from benchmark.optimisation.prompts import assign, new_pool, shuffled
from benchmark.optimisation.unlabelled import Batch, Unlabelled
from benchmark.types import StateDict
from lfpm.choices import Selection


@dataclass(frozen=True)
class Trial:
    """What one candidate did on the held-out images.

    Attributes:
        scale: lambda_a.
        flips: mean over tasks of the share of predictions that fresh prompts change, less the
            share that the same prompts with shuffled pixels change; in [-1,1].
        agreement: share of clean predictions equal to the undefended model's, in [0,1].
    """

    scale: float
    flips: float
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
    """Walk the grid upwards until both bounds hold; see `Selection` for the way out."""
    trials: list[Trial] = []
    undefended = tried(0.0)
    bound = rule.flips * max(undefended.flips, 0.0)
    for scale in rule.grid:
        trials.append(tried(scale))
        if trials[-1].flips <= bound and trials[-1].agreement >= rule.agreement:
            return Choice(scale, True, undefended, tuple(trials))
    agreeing = [trial.scale for trial in trials if trial.agreement >= rule.agreement]
    return Choice(max(agreeing, default=rule.grid[0]), False, undefended, tuple(trials))


def trial(
    scale: float, weights: StateDict, rule: Selection, data: Unlabelled, ctx: Context
) -> Trial:
    """Probe theta_m + lambda_a tau_a with prompts mined anew.

    Every candidate meets the same draws: only the weights differ. Probes raise the cross-entropy
    only, without the feature term: the partition is the training's own.

    Args:
        scale: lambda_a, for the report.
        weights: theta_m + lambda_a tau_a.
        rule: how to probe.
        data: held-out images with theta_m's word on them.
        ctx: encoder and generators.
    """
    rng = ctx.rng("probe")
    size = next(iter(data.images.values())).shape[-1]
    pool = new_pool(rule.probe, len(data.tasks), size, rng, ctx.device)
    pool = mine(ctx.encoder, weights, data, pool, rule.steps, rule.probe, rng)
    batch = data.first(rule.images)
    members = assign(len(batch.heads), batch.per_task, rule.probe.members, rng)
    clean = _predictions(ctx, weights, batch, batch.images)
    prompted = _predictions(ctx, weights, batch, pool.apply(batch.images, members))
    control = shuffled(pool, rng).apply(batch.images, members)
    occluded = _predictions(ctx, weights, batch, control)
    return Trial(
        scale=scale,
        flips=_changed(clean, prompted) - _changed(clean, occluded),
        agreement=1 - _changed(clean, batch.labels),
    )


def _predictions(
    ctx: Context, weights: StateDict, batch: Batch, images: Tensor
) -> tuple[Tensor, ...]:
    features = ctx.features(weights, images)
    return tuple(scores.argmax(1) for scores in batch.logits(features))


def _changed(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Mean over tasks of the share of predictions that differ."""
    shares = [(one != other).float().mean() for one, other in zip(before, after, strict=True)]
    return float(torch.stack(shares).mean())
