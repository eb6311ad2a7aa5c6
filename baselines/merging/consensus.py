"""Consensus merging with TALL masks (Wang et al., ICML 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.pieces import Piece, merged_in_pieces
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context


@component
class Consensus:
    """Task arithmetic on the entries that at least k tasks find important.

    Task t finds an entry important if |τ_t| > λ_t |Σ_s τ_s - τ_t|. The paper chooses λ_t per task
    from 0.2 to 0.6 by accuracy on labelled validation images; here one fixed value, the middle of
    that grid, stands for all tasks, and no data is needed. [ours]

    Attributes:
        threshold: λ_t.
        min_tasks: k; 0 gives task arithmetic, more than there are experts would give the base.
        scale: λ of the task arithmetic.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "O(TP) time, one pass; memory: result"
    threshold: Annotated[float, Field(ge=0, le=10)]
    min_tasks: Annotated[int, Field(ge=0)]
    scale: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """As many experts as have to agree."""
        if len(experts) < self.min_tasks:
            return f"merge.min_tasks={self.min_tasks} of {len(experts)} experts can never agree"
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Add the scaled sum of task vectors, where enough tasks agree, to the base."""
        import torch

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            return consensus(torch.stack(list(rows)), self.threshold, self.min_tasks)

        return merged_in_pieces(base, experts, rule, self.scale)


def tall_masks(vectors: Tensor, threshold: float) -> Tensor:
    """TALL masks (T,P) bool of task vectors (T,P); an entry that is 0 is never important."""
    return vectors.abs() > threshold * (vectors.sum(0) - vectors).abs()


def consensus(vectors: Tensor, threshold: float, min_tasks: int) -> Tensor:
    """The sum of task vectors (T,P) where at least `min_tasks` masks agree, 0 elsewhere: (P,)."""
    enough = tall_masks(vectors, threshold).sum(0) >= min_tasks
    return vectors.sum(0) * enough
