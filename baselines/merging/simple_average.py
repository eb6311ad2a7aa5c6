"""Simple averaging of fine-tuned weights (Wortsman et al., ICML 2022, "uniform soup")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from baselines.merging.task_arithmetic import merged_by_sum, no_experts
from benchmark.components import component
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class SimpleAverage:
    """The mean of the experts' weights, θ_m = (1/T) Σ θ_t.

    Computed as θ_0 + (1/T) Σ (θ_t - θ_0) in float64, the same up to the last bit; the base itself
    has no weight in the result.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "O(TP) time, one pass; memory: result"

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Average the experts."""
        return merged_by_sum(base, experts, 1 / len(experts))
