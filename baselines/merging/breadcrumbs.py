"""Model Breadcrumbs (Davari and Belilovsky, ECCV 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from baselines.merging.ties import cuts
from benchmark.components import component
from benchmark.pieces import Piece, merged_in_pieces, summed
from benchmark.quantiles import kept
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context


@component
class Breadcrumbs:
    """θ_m = θ_0 + λ Σ_t m_t τ_t: masks that drop the largest entries and keep the next largest.

    Counts are rounded down, so a row shorter than 1/outliers loses no outlier; 1-D tensors are one
    row; among equal magnitudes the first count as larger.

    Attributes:
        density: share of the entries that is kept (the paper's β, as the authors' code reads it).
        outliers: share of the largest entries that is dropped before (γ).
        trim: "per_row" ranks each row by itself (last dimension; the authors' code), "per_tensor"
            each tensor (mergekit).
        scale: λ (the paper's α).
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = (
        "O(TP) time, sorted rows O(TP log n), one pass; memory: result, a few tensors"
    )
    density: Annotated[float, Field(gt=0, le=1)]
    outliers: Annotated[float, Field(ge=0, lt=1)]
    trim: Literal["per_row", "per_tensor"]
    scale: Annotated[float, Field(ge=0, le=10)]

    def __post_init__(self) -> None:
        """Refuse to keep more than what the outliers leave."""
        if self.density + self.outliers > 1 + 1e-9:
            raise ValueError(
                f"density={self.density} and outliers={self.outliers} are more than the whole; "
                "lower one of them"
            )

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Add the scaled sum of masked task vectors to the base."""

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            shape = base[piece.name].shape if self.trim == "per_row" else (-1,)
            masked = (middling(row.view(shape), self.density, self.outliers) for row in rows)
            return summed(piece, (one.flatten() for one in masked))

        return merged_in_pieces(base, experts, rule, self.scale, size=None)


def middling(values: Tensor, density: float, outliers: float) -> Tensor:
    """Zero all but the entries of middling magnitude in each row.

    Args:
        values: (...,n), one row or many.
        density: share kept: floor(density * n) entries of each row.
        outliers: share of larger entries dropped: floor(outliers * n).
    """
    import torch

    rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    first = kept(outliers, rows.shape[1])
    last = first + kept(density, rows.shape[1])
    if len(rows) == 1:  # as below, without sorting it
        go, stay = (cuts(lambda: iter([rows]), rows.shape[1], most)[0] for most in (first, last))
        return rows.mul(stay.stays(rows[0]) & ~go.stays(rows[0])).view(values.shape)
    order = rows.abs().argsort(dim=1, descending=True, stable=True)[:, first:last]
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
    return torch.where(mask, rows, 0).view(values.shape)
