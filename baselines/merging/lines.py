"""LiNeS, layer-increasing network scaling (Wang et al., ICLR 2025): a modifier of any merge."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from benchmark.components import component, role
from benchmark.pieces import entries, pieces
from benchmark.types import Expert, Grant, Model, StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.context import Context

BLOCK = re.compile(r"(?:^|\.)resblocks\.(\d+)\.")


@component
class Lines:
    """θ_0 + (α + β l/(L-1)) δ in residual block l = 0..L-1, where θ_0 + δ is another merge.

    Tensors outside the blocks (embeddings, first and last norm, projection) get α, and so does an
    only block. δ includes the other merge's own λ: with task arithmetic at λ, the paper's β is β λ
    here. At β = 0 and α = auto, task arithmetic becomes the average, whatever its λ. A merge that
    leaves per-task adapters is refused: they were fitted to its features.

    Attributes:
        inner: the merge that is modified; `merge@merge.inner=ties` chooses another.
        alpha: α; "auto" is the paper's rule for many tasks, |Σ τ_t|_1 / (T |δ|_1).
        beta: β.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "that of the inner merge, and O(TP) time once"
    inner: Any
    alpha: Annotated[float, Field(ge=0, le=10)] | Literal["auto"]
    beta: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """What the inner merge may see."""
        return self.inner.needs

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """What the inner merge says; adapters were fitted to features that would be changed."""
        if getattr(self.inner, "adapts", False):
            return "merge.inner leaves per-task adapters, which LiNeS cannot scale"
        return self.inner.accepts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Merge, then scale every layer's difference to the base."""
        # In its own name the inner merge draws, and finds its stages, as it does without LiNeS.
        model = self.inner(base, experts, ctx.narrowed(role=role("merge", self.inner)))
        alpha = average_share(base, experts, model.encoder) if self.alpha == "auto" else self.alpha
        factors = layer_factors(base, alpha, self.beta)
        info = {**model.info, "alpha": alpha, "beta": self.beta}
        return replace(model, encoder=scaled(base, model.encoder, factors), info=info)


def layer_factors(names: Iterable[str], alpha: float, beta: float) -> dict[str, float]:
    """Tensor -> α + β l/(L-1) by the residual block in its name; α without one."""
    found = {name: BLOCK.search(name) for name in names}
    layers = {name: int(match[1]) for name, match in found.items() if match}
    last = max(layers.values(), default=0)
    return {name: alpha + beta * layers.get(name, 0) / max(last, 1) for name in found}


def average_share(base: StateDict, experts: Sequence[Expert], merged: StateDict) -> float:
    """|Σ τ_t|_1 / (T |θ_m - θ_0|_1); 1 where the merge is the base."""
    summed = moved = 0.0
    for piece in pieces(base):
        start = entries(base, piece)
        rows = (entries(one.weights, piece).sub_(start) for one in experts)
        summed += float(sum(rows, start=start.new_zeros(())).abs().sum())
        moved += float(entries(merged, piece).sub_(start).abs().sum())
    return summed / (len(experts) * moved) if moved else 1.0


def scaled(base: StateDict, merged: StateDict, factors: dict[str, float]) -> Tensors:
    """`base + factor * (merged - base)` per tensor; those without floating point are kept."""
    result = {name: value.detach().clone().contiguous() for name, value in merged.items()}
    for piece in pieces(base):
        start = entries(base, piece)
        moved = entries(merged, piece).sub_(start).mul_(factors[piece.name]).add_(start)
        result[piece.name].view(-1)[piece.start : piece.stop] = moved
    return result
