"""DARE (Yu et al., ICML 2024) with TIES (Yadav et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from baselines.merging.dare_ta import Dropping
from baselines.merging.task_arithmetic import no_experts
from baselines.merging.ties import Combine, Trim, Trimming, merged_by_ties
from benchmark.components import component
from benchmark.pieces import Scope
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class DareTies:
    """θ_m = θ_0 + λ TIES(τ'_1, ..., τ'_T) with task vectors thinned by DARE.

    Dropping as in `dare_ta`, all else as in `ties`; both state their deviations.

    Attributes:
        drop: p, the share that is dropped at random; 0 gives TIES, 1 is refused.
        density: share of the entries that TIES keeps, of all entries, dropped ones included.
        trim: "global" or "per_tensor".
        scope: "visual" or "openclip_legacy".
        combine: "mean" or "sum".
        scale: λ.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "O(TP) time, four passes; memory: result, 2 % of T task vectors"
    drop: Annotated[float, Field(ge=0, lt=1)]
    density: Annotated[float, Field(gt=0, le=1)]
    trim: Trim
    scope: Scope
    combine: Combine
    scale: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Thin the task vectors, then merge them by TIES."""
        how = Trimming(self.density, self.trim, self.scope, self.combine)
        return merged_by_ties(base, experts, how, self.scale, Dropping(experts, self.drop, ctx))
