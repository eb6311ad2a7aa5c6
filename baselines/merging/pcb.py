"""PCB-Merging (Du et al., NeurIPS 2024): parameter competition balancing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.pieces import (
    Piece,
    Scope,
    check_experts,
    count_entries,
    merged_in_pieces,
    rows_of,
    thinned,
    untrained,
)
from benchmark.quantiles import kept, nth_smallest
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context

Variant = Literal["nlp", "vision"]
TAILS: dict[Variant, float] = {"nlp": 0.0001, "vision": 0.01}
"""Share of the smallest and of the largest magnitudes that are clipped."""


@component
class Pcb:
    """θ_m = θ_0 + λ Σ_t w_t τ_t / Σ_t w_t, with weights from competition within and between tasks.

    A score exp(T a_t²) b_t weighs every entry: a_t is |τ_t|, clipped at its tails and scaled to
    [0,1]; b_t tells whether the tasks agree. Scores below the (1 - density)-quantile of the task
    get weight 0, the highest 1. τ_t is clipped too. Whole vectors are ranked.

    The authors' two code bases differ, and so do the variants: "nlp" clips 0.01 % and has
    b_t = tanh(τ_t Σ_s τ_s); "vision" clips 1 % and has b_t = Σ_s tanh(n_t n_s), where n is a with
    the sign of τ. The authors' evolution strategy for λ per task needs labelled images and is left
    out; λ is their starting value for all tasks. Where a scaling to [0,1] is 0/0, the authors' code
    returns NaN: magnitudes that are all equal count as 0 here, scores at the only value above 0 as
    1, and a density that keeps a single entry is refused. One expert is not returned as it is.

    Attributes:
        variant: "nlp" or "vision".
        density: share of the entries of each task with a weight above 0, almost.
        scope: "visual" or "openclip_legacy", as in `ties`.
        scale: λ.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "O(TP) time, six passes; memory: result, 2 % of T task vectors"
    variant: Variant
    density: Annotated[float, Field(gt=0, le=1)]
    scope: Scope
    scale: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Add the scaled balanced mean of task vectors to the base."""
        import torch

        check_experts(base, experts)
        zeros = untrained(base, self.scope)
        count = count_entries(base) + zeros
        levels = levels_of(
            lambda: map(torch.stack, rows_of(base, experts, zeros=zeros)),
            count,
            self.density,
            self.variant,
            lambda step: map(torch.stack, thinned(base, experts, step, zeros)),
        )

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            return balanced(torch.stack(list(rows)), levels)

        return merged_in_pieces(base, experts, rule, self.scale)


@dataclass(frozen=True)
class Levels:
    """What is known of the whole vectors before they are weighed; tensors (T,1).

    Attributes:
        variant: which scores.
        low: magnitudes below it are raised to it.
        high: magnitudes above it are lowered to it.
        floor: scores up to it get weight 0.
        top: the highest score gets weight 1.
    """

    variant: Variant
    low: Tensor
    high: Tensor
    floor: Tensor
    top: Tensor


def pcb(vectors: Tensor, density: float, variant: Variant) -> Tensor:
    """PCB on task vectors (T,P), finite, without the final scaling: (P,)."""
    found = levels_of(lambda: iter([vectors]), vectors.shape[1], density, variant)
    return balanced(vectors, found)


def levels_of(
    parts: Callable[[], Iterator[Tensor]],
    count: int,
    density: float,
    variant: Variant,
    thin: Callable[[int], Iterator[Tensor]] | None = None,
) -> Levels:
    """The levels of task vectors given in pieces (T,n), anew at each call.

    Args:
        parts: the pieces.
        count: P, their lengths' sum.
        density: share of scores above the floor.
        variant: which scores.
        thin: gives every so-many-th entry (see `benchmark.quantiles.nth_smallest`).
    """
    first = _without(density, count)
    if first >= count - 1:
        raise BenchError(
            f"merge.density={density} keeps one of {count} entries, which leaves nothing to scale "
            f"the weights by; give more than {1 / count:.2g}"
        )

    def ranked(rank: int, value: Callable[[Tensor], Tensor]) -> Tensor:
        few = thin and (lambda step, thin=thin: map(value, thin(step)))
        found = nth_smallest(lambda: map(value, parts()), count, rank, few)
        return next(parts()).new_tensor([one.value for one in found])[:, None]

    def magnitudes(part: Tensor) -> Tensor:
        return part.abs()

    def scored(part: Tensor) -> Tensor:
        return scores(part, low, high, variant)

    low = ranked(kept(TAILS[variant], count), magnitudes)
    high = ranked(max(_without(TAILS[variant], count) - 1, 0), magnitudes)
    return Levels(variant, low, high, ranked(first, scored), ranked(count - 1, scored))


def _without(share: float, count: int) -> int:
    """floor((1 - share) * count), with the share read as the decimal it was written as."""
    return int((1 - Fraction(str(share))) * count)


def scores(vectors: Tensor, low: Tensor, high: Tensor, variant: Variant) -> Tensor:
    """exp(T a²) b per entry of the task vectors (T,n): negative where a task is outvoted."""
    own = shares(vectors.abs().clamp(low, high), low, high)
    if variant == "nlp":
        between = (vectors * vectors.sum(0)).tanh()
    else:
        signed = vectors.sign() * own
        between = (signed[:, None] * signed).tanh().sum(1)
    return (len(vectors) * own.square()).exp() * between


def shares(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(values - low) / (high - low), and 0 where high is low."""
    import torch

    span = high - low
    return torch.where(span > 0, (values - low) / torch.where(span > 0, span, 1), 0)


def balanced(vectors: Tensor, levels: Levels) -> Tensor:
    """The weighted mean (n,) of clipped task vectors (T,n)."""
    import torch

    found = scores(vectors, levels.low, levels.high, levels.variant)
    single = (levels.floor == levels.top) & (levels.top > 0) & (found == levels.top)
    weights = shares(found.clamp(min=levels.floor), levels.floor, levels.top)
    weights = torch.where(single, 1, weights)
    clipped = vectors.sign() * vectors.abs().clamp(levels.low, levels.high)
    return (weights * clipped).sum(0) / weights.sum(0).clamp(min=1e-12)
