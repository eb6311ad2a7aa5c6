"""Task arithmetic (Ilharco et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.pieces import check_experts as check_experts
from benchmark.pieces import merged_in_pieces, summed
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class TaskArithmetic:
    """θ_m = θ_0 + λ Σ_t (θ_t - θ_0).

    Attributes:
        scale: λ; 0 returns the base, 1/T the average of the experts.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "O(TP) time, one pass; memory: result"
    scale: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Add the scaled sum of task vectors to the base."""
        return merged_by_sum(base, experts, self.scale)


def merged_by_sum(base: StateDict, experts: Sequence[Expert], scale: float) -> Model:
    """`base + scale * sum of task vectors`: the sum first, then one scaling, then one addition.

    With one expert and scale 1 this is the expert bit for bit.
    """
    return merged_in_pieces(base, experts, summed, scale)


def no_experts(experts: Sequence[Expert]) -> str | None:
    """A reason not to merge if there is nothing to merge."""
    return None if experts else "there is no expert to merge"
