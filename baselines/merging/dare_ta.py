"""DARE (Yu et al., ICML 2024) with task arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.pieces import Piece, merged_in_pieces, summed
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
    cost: ClassVar[str] = "O(TP) time, one pass; memory: result"
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
        change = Dropping(experts, self.drop, ctx)

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            return summed(piece, (change(i, piece, row) for i, row in enumerate(rows)))

        return merged_in_pieces(base, experts, rule, self.scale)


class Dropping:
    """A Change: `dropped`, with the generator of (seed, task, tensor's name) for each tensor.

    The pieces of a tensor, in their order, are what the whole tensor would be: a generator gives
    the same numbers in one call as in several. Every pass over the pieces gives the same masks.
    """

    def __init__(self, experts: Sequence[Expert], drop: float, ctx: Context) -> None:
        self._tasks = [expert.task for expert in experts]
        self._drop, self._ctx = drop, ctx
        self._open: dict[int, tuple[str, int, torch.Generator]] = {}  # where each task stands

    def __call__(self, index: int, piece: Piece, row: Tensor) -> Tensor:
        """The thinned task vector of an expert in a piece."""
        return dropped(row, self._drop, self._generator(index, piece))

    def _generator(self, index: int, piece: Piece) -> torch.Generator:
        import torch

        name, stop, rng = self._open.get(index, ("", 0, None))
        if rng is None or (name, stop) != (piece.name, piece.start):
            rng = self._ctx.rng(self._tasks[index], piece.name)
            torch.rand(piece.start, generator=rng)
        self._open[index] = piece.name, piece.stop, rng
        return rng


def dropped(vector: Tensor, drop: float, rng: torch.Generator) -> Tensor:
    """Each entry is 0 with probability `drop`, else divided by 1 - `drop`.

    Args:
        vector: of any shape.
        drop: p in [0,1).
        rng: on the CPU.
    """
    import torch

    stays = torch.rand(vector.shape, generator=rng) >= drop
    return (vector / (1 - drop)).mul_(stays.to(vector.device))
