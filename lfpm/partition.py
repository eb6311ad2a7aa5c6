"""Orthogonal partition of feature space into an adversarial and a clean subspace."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lfpm.choices import Partitioning


@dataclass(frozen=True)
class Partition:
    """The projectors P_a and P_c of one task, by orthonormal bases.

    Attributes:
        kind: as in `Partitioning`.
        adversarial: (D,k) basis of P_a; None where P_a is the complement of P_c.
        clean: (D,k) basis of P_c; None where P_c is the complement of P_a or belongs to a sample.
    """

    kind: str
    adversarial: Tensor | None = None
    clean: Tensor | None = None

    def onto_adversarial(self, values: Tensor, own: Tensor) -> Tensor:
        """P_a v for values (B,D); `own` (B,D) are the samples' clean features."""
        if self.kind == "none":
            return values
        if self.kind == "sample":
            return values - along(values, own)
        assert self.adversarial is not None
        return values @ self.adversarial @ self.adversarial.T

    def onto_clean(self, values: Tensor, own: Tensor) -> Tensor:
        """P_c v for values (B,D); `own` (B,D) are the samples' clean features."""
        if self.kind == "none":
            return values
        if self.kind == "sample":
            return along(values, own)
        if self.clean is None:
            return values - self.onto_adversarial(values, own)
        return values @ self.clean @ self.clean.T


def along(values: Tensor, own: Tensor) -> Tensor:
    """The part of each row of values (B,D) along the same row of `own` (B,D)."""
    unit = normalize(own, dim=1)
    return (values * unit).sum(1, keepdim=True) * unit


def fit(settings: Partitioning, clean: Tensor, shift: Tensor) -> Partition:
    """The partition of one task.

    Args:
        settings: which, and its rank and energy.
        clean: (N,D) clean features of the merged model.
        shift: (N,D) what prompts add to them.
    """
    if settings.kind in ("sample", "none"):
        return Partition(settings.kind)
    shift = shift.double()
    if settings.kind == "shift_first":
        return Partition(settings.kind, adversarial=_top(shift, settings.rank).float())
    basis = _holding(clean.double(), settings.energy)
    rest = shift - shift @ basis @ basis.T
    room = min(settings.rank, basis.shape[0] - basis.shape[1])
    found = _top(rest, room)
    # A rank-deficient rest has right singular vectors inside P_c: take them out once more.
    found = found - basis @ (basis.T @ found)
    found = torch.linalg.qr(found).Q if room else found
    return Partition(settings.kind, found.float(), basis.float())


def _top(values: Tensor, rank: int) -> Tensor:
    """(D,k) the top right singular vectors of (N,D), uncentred, that are not numerically null."""
    _, singular, vectors = torch.linalg.svd(values, full_matrices=False)
    real = int((singular > 1e-9 * singular[:1].clamp_min(1e-30)).sum())
    return vectors[: min(rank, real)].T.contiguous()


def _holding(clean: Tensor, energy: float) -> Tensor:
    """(D,k) the fewest top directions of the centred (N,D) that hold this share of its energy."""
    centred = clean - clean.mean(0)
    _, singular, vectors = torch.linalg.svd(centred, full_matrices=False)
    held = singular.square().cumsum(0) / singular.square().sum().clamp_min(1e-30)
    count = min(int((held < energy).sum()) + 1, len(singular))
    return vectors[:count].T.contiguous()


def captured(partition: Partition, clean: Tensor, shift: Tensor) -> float:
    """Share of the shift's energy in P_a, in [0,1]: |P_a shift|^2 / |shift|^2."""
    total = shift.double().square().sum()
    kept = partition.onto_adversarial(shift, clean).double().square().sum()
    return float(kept / total) if total > 0 else 0.0
