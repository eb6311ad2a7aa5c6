"""Iso-C, isotropic merging in the common subspace (Marczak et al., ICML 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.spectra import Matrices, merged_by_matrix, thin_svd
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context


@component
class IsoC:
    """θ_m = θ_0 + λ s̄ U V^T per matrix, where U S V^T = Σ_t τ_t and s̄ is the mean of S.

    All other tensors are averaged. One expert is not returned as it is: its matrices are flattened.

    Deviation: singular values that are float32's rounding error (LoRA experts have many) stay 0 and
    do not count in the mean, where the authors' code lifts them to it along arbitrary directions.

    Attributes:
        matrices: "all_2d" as in the authors' code, the position embedding and the final projection
            included, or "linear": weights of linear layers only.
        qkv_split: whether q, k and v, which open_clip packs into one matrix, are merged one by one
            (as in Hugging Face's layout, with other results).
        scale: λ (the paper's α).
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "one eigensystem per matrix; memory: result, T of its largest matrix"
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
        """Flatten the spectrum of every matrix of the summed task vectors."""
        return merged_by_matrix(base, experts, iso_c, self.scale, self.matrices, self.qkv_split)


def iso_c(deltas: Tensor) -> Tensor:
    """Iso-C on the task vectors (T,m,n) of one matrix, float64, without the final scaling: (m,n).

    Non-zero singular values of the result are equal; their sum is that of the summed matrix.
    """
    import torch

    left, sizes, right = thin_svd(deltas.sum(0))
    return sizes.mean() * left @ right if len(sizes) else torch.zeros_like(deltas[0])
