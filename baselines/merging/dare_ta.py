"""DARE (Yu et al., ICML 2024) with task arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.pieces import Change, Piece, merged_in_pieces, summed
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmark.context import Context


@component
class DareTaskArithmetic:
    """θ_m = θ_0 + λ Σ_t m_t τ_t / (1-p), m_t ~ Bernoulli(1-p): drop at random and rescale.

    The rescaling is the paper's 1/(1-p) (peft's too; mergekit restores the L1 norm instead). Every
    tensor of every task has a generator of its own, so another task or another order changes no
    mask; the seed does.

    Attributes:
        drop: p, the share that is dropped; 0 gives task arithmetic, 1 is refused.
        scale: λ.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "O(TP) time, one pass; memory: result, a few of its largest tensor"
    drop: Annotated[float, Field(ge=0, lt=1)]
    scale: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Add the scaled sum of thinned task vectors to the base."""
        change = dropping(experts, self.drop, ctx)

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            return summed(piece, (change(i, piece, row) for i, row in enumerate(rows)))

        return merged_in_pieces(base, experts, rule, self.scale, size=None)


def dropping(experts: Sequence[Expert], drop: float, ctx: Context) -> Change:
    """`dropped` on whole tensors, with the generator of (seed, task, tensor's name)."""

    def change(index: int, piece: Piece, row: Tensor) -> Tensor:
        return dropped(row, drop, ctx.rng(experts[index].task, piece.name))

    return change


def dropped(vector: Tensor, drop: float, rng: torch.Generator) -> Tensor:
    """Each entry is 0 with probability `drop`, else divided by 1 - `drop`.

    Args:
        vector: of any shape.
        drop: p in [0,1).
        rng: on the CPU.
    """
    import torch

    stays = torch.rand(vector.shape, generator=rng) >= drop
    return torch.where(stays.to(vector.device), vector / (1 - drop), 0)
