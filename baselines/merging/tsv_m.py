"""TSV-M, merging of task singular vectors (Gargiulo et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.spectra import Matrices, merged_by_matrix, polar, thin_svd
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context


@component
class TsvM:
    """θ_m = θ_0 + λ U⊥ S V⊥^T per matrix, from the leading singular triplets of every task.

    U stacks the T tasks' leading floor(r/T) left singular vectors, r the smaller side, V the right
    ones; U⊥ and V⊥ are the nearest orthonormal matrices. All other tensors are averaged.

    Deviations: with more tasks than r, one triplet of each task is kept (the formula keeps none and
    erases the matrix); triplets that are float32's rounding error are not counted (see
    `benchmark.spectra`); directions in which stacked vectors are dependent, as those of equal
    experts, are left out where the authors' code fills them arbitrarily.

    Attributes:
        matrices: "all_2d" as in the authors' code, the position embedding and the final projection
            included, or "linear": weights of linear layers only.
        qkv_split: whether q, k and v, which open_clip packs into one matrix, are merged one by one
            (as in Hugging Face's layout, with other results).
        scale: λ (the paper's α).
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "T + 2 eigensystems per matrix; memory: result, T of its largest matrix"
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
        """Merge every matrix by its tasks' singular vectors."""
        return merged_by_matrix(base, experts, tsv_m, self.scale, self.matrices, self.qkv_split)


def tsv_m(deltas: Tensor) -> Tensor:
    """TSV-M on the task vectors (T,m,n) of one matrix, float64, without the final scaling: (m,n).

    With one task the matrix itself; the sum where the tasks' leading subspaces are orthogonal.
    """
    import torch

    tasks, rows, columns = deltas.shape
    count = max(1, min(rows, columns) // tasks)
    lefts, spectra, rights = zip(*(thin_svd(delta, most=count) for delta in deltas), strict=True)
    left, sizes, right = torch.cat(lefts, dim=1), torch.cat(spectra), torch.cat(rights)
    if not len(sizes):
        return torch.zeros_like(deltas[0])
    return (polar(left) * sizes) @ polar(right)
