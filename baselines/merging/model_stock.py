"""Model Stock (Jang et al., ECCV 2024): a negative control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.pieces import Piece, merged_in_pieces
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context


@component
class ModelStock:
    """θ_m = θ_0 + t (mean_t θ_t - θ_0) per tensor, t = T c / (1 + (T-1) c).

    c is the mean cosine of two task vectors (as in mergekit). Made for fine-tunes of one task,
    whose task vectors are alike; those of different tasks are nearly orthogonal, t is nearly 0 and
    the result nearly zero-shot. What survives here survives anything.

    Where the formula fails: c below 0 counts as 0, and so does the cosine of a task vector of
    length 0; a single expert, which has no pair, is returned as it is (t = 1).
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "O(T²P) time, one pass; memory: result, T of its largest tensor"

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Shrink the average of each tensor towards the base."""
        import torch

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            vectors = torch.stack(list(rows))
            return ratio(vectors) * vectors.mean(0)

        return merged_in_pieces(base, experts, rule, 1.0, size=None)


def ratio(vectors: Tensor) -> float:
    """T in [0,1] of the task vectors (T,P) of one tensor; 1 where they are parallel."""
    import torch

    tasks = len(vectors)
    if tasks == 1:
        return 1.0
    lengths = vectors.norm(dim=1, keepdim=True)
    units = torch.where(lengths > 0, vectors / lengths, 0)
    pairs = float((units @ units.T).triu(1).sum())
    cosine = max(0.0, pairs / (tasks * (tasks - 1) / 2))
    return tasks * cosine / (1 + (tasks - 1) * cosine)
