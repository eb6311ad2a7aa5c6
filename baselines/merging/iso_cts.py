"""Iso-CTS, isotropic merging in common and task-specific subspaces (Marczak et al., ICML 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.quantiles import kept
from benchmark.spectra import ROUNDING, Matrices, merged_by_matrix, polar, thin_svd
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context


@component
class IsoCts:
    """Iso-C with the last directions of the sum replaced by directions of each task's own.

    The leading directions of Σ_t τ_t are common. Each task adds as many leading directions of what
    is left of it beyond the common left ones; all are made orthonormal together and get the mean of
    their singular values. All other tensors are averaged.

    Deviation: as in `iso_c`, singular values that are float32's rounding error take no part.

    Attributes:
        common: share of common directions; the rest is rounded to equal parts for all tasks, and 1
            gives Iso-C.
        matrices: "all_2d" as in the authors' code, the position embedding and the final projection
            included, or "linear": weights of linear layers only.
        qkv_split: whether q, k and v, which open_clip packs into one matrix, are merged one by one
            (as in Hugging Face's layout, with other results).
        scale: λ (the paper's α).
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "T + 3 eigensystems per matrix; memory: result, T of its largest matrix"
    common: Annotated[float, Field(ge=0, le=1)]
    matrices: Matrices
    qkv_split: bool
    scale: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Merge every matrix in its common and task-specific directions."""
        combine = partial(iso_cts, common=self.common)
        return merged_by_matrix(base, experts, combine, self.scale, self.matrices, self.qkv_split)


def iso_cts(deltas: Tensor, common: float) -> Tensor:
    """Iso-CTS on the task vectors (T,m,n) of one matrix, float64, without final scaling: (m,n)."""
    import torch

    tasks, rows, columns = deltas.shape
    shared, each = directions(min(rows, columns), tasks, common)
    left, sizes, right = thin_svd(deltas.sum(0), most=max(shared, 1))
    # What rounding leaves of a task that has nothing of its own is no direction.
    floor = float(sizes[0]) * min(rows, columns) * ROUNDING if len(sizes) else 0.0
    left, sizes, right = left[:, :shared], sizes[:shared], right[:shared]
    own = [thin_svd(delta - left @ (left.T @ delta), floor, each) for delta in deltas]
    left = torch.cat([*(u for u, _, _ in own), left], dim=1)
    right = torch.cat([*(vt for _, _, vt in own), right])
    sizes = torch.cat([*(s for _, s, _ in own), sizes])
    if not len(sizes):
        return torch.zeros_like(deltas[0])
    return sizes.mean() * polar(left) @ polar(right)


def directions(rank: int, tasks: int, common: float) -> tuple[int, int]:
    """How many directions are common, and how many each task has of its own.

    As in the authors' code, the share that is not common is rounded to a multiple of `tasks`; never
    above the rank, where that code would fail.
    """
    each = min(round((rank - kept(common, rank)) / tasks), rank // tasks)
    return rank - tasks * each, each
