"""The loss at one node of the path.

    l = |P_a (f(theta; x+p) - r)|^2 / s  +  mu CE(theta; x+p)
        + beta ( |P_c (f(theta; x) - f(theta_m; x))|^2 / s  +  nu KL(p_m(x) || p_theta(x)) )

with s the mean squared norm of the merged model's features, so that mu, beta and nu carry over
between encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.optimisation.unlabelled import Batch, cross_entropy
from lfpm.choices import Losses
from lfpm.partition import Partition


@dataclass(frozen=True)
class Terms:
    """The four terms of a node, scalars, unweighted.

    Attributes:
        energy: adversarial feature energy of the prompted images, in units of s.
        cross_entropy: of the prompted images against pseudo-labels, in nats.
        match: clean feature distance, in units of s.
        kl: from the merged model's clean predictions to the present ones, in nats.
    """

    energy: Tensor
    cross_entropy: Tensor
    match: Tensor
    kl: Tensor

    def total(self, losses: Losses) -> Tensor:
        """The weighted sum."""
        kept = self.match + losses.nu * self.kl
        return self.energy + losses.mu * self.cross_entropy + losses.beta * kept


@dataclass(frozen=True)
class Energy:
    """Squared lengths of projected features.

    Attributes:
        partitions: one per task, in the batch's order.
        unit: s, the mean squared norm of the merged model's features.
    """

    partitions: Sequence[Partition]
    unit: float

    def adversarial(self, shift: Tensor, batch: Batch) -> Tensor:
        """Mean over images of |P_a shift|^2 / s, for shift (T*b,D)."""
        parts = [
            part.onto_adversarial(values, own) for part, values, own in self._tasks(shift, batch)
        ]
        return torch.cat(parts).square().sum(1).mean() / self.unit

    def clean(self, shift: Tensor, batch: Batch) -> Tensor:
        """Mean over images of |P_c shift|^2 / s, for shift (T*b,D)."""
        parts = [part.onto_clean(values, own) for part, values, own in self._tasks(shift, batch)]
        return torch.cat(parts).square().sum(1).mean() / self.unit

    def _tasks(self, shift: Tensor, batch: Batch) -> zip[tuple[Partition, Tensor, Tensor]]:
        size = batch.per_task
        return zip(self.partitions, shift.split(size), batch.features.split(size), strict=True)


def node_terms(
    clean: Tensor, prompted: Tensor, batch: Batch, energy: Energy, losses: Losses
) -> Terms:
    """The terms from features (T*b,D) of the clean and the prompted images at one node."""
    reference = batch.features if losses.reference == "merged" else clean.detach()
    drift = clean - batch.features
    whole = drift.square().sum(1).mean() / energy.unit
    return Terms(
        energy=energy.adversarial(prompted - reference, batch),
        cross_entropy=cross_entropy(batch.logits(prompted), batch.labels),
        match=whole if losses.match == "all" else energy.clean(drift, batch),
        kl=divergence(batch, clean),
    )


def divergence(batch: Batch, features: Tensor) -> Tensor:
    """Mean over images of KL(frozen model || softmax of these features' logits), in nats."""
    parts = [
        (frozen.exp() * (frozen - scores.log_softmax(1))).sum(1)
        for frozen, scores in zip(batch.log_probs, batch.logits(features), strict=True)
    ]
    return torch.cat(parts).mean()
