"""TIES-Merging (Yadav et al., NeurIPS 2023): trim, elect sign, disjoint merge."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from baselines.merging.task_arithmetic import check_experts, no_experts
from benchmark.algebra import add, flatten, norms, sizes, task_vector, unflatten
from benchmark.components import component
from benchmark.types import Expert, Grant, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context

Combine = Literal["mean", "sum"]


@component
class Ties:
    """θ_m = θ_0 + λ TIES(τ_1, ..., τ_T).

    Deviations: exactly floor(density * d) entries are kept, where the authors' code keeps one more
    and fails at density 1; a sign sum of exactly 0 counts as +1 (as in peft and mergekit).

    Attributes:
        density: share of the entries of each task vector that is kept.
        trim: "global" ranks the entries of the whole flattened vector (the authors' code),
            "per_tensor" those of each tensor (mergekit, peft).
        combine: "mean" or "sum" of the entries that agree with the elected sign.
        scale: λ.
    """

    version: ClassVar[int] = 1
    density: Annotated[float, Field(gt=0, le=1)]
    trim: Literal["global", "per_tensor"]
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
        """Merge the trimmed task vectors where they agree in sign."""
        import torch

        check_experts(base, experts)
        taus = [task_vector(expert.weights, base) for expert in experts]
        segments = sizes(taus[0]) if self.trim == "per_tensor" else None
        vectors = torch.stack([flatten(tau) for tau in taus])
        merged = ties(vectors, self.density, self.combine, segments)
        total = sum(sizes(taus[0]))
        info = {
            "scale": self.scale,
            "norms": norms({one.task: tau for one, tau in zip(experts, taus, strict=True)}),
            "merged_norm": self.scale * float(merged.norm()),
            "kept_per_task": sum(kept(self.density, d) for d in segments or [total]) / total,
            "nonzero": int(merged.count_nonzero()) / total,
        }
        return Model(add(base, unflatten(merged, taus[0]), self.scale), info=info)


def kept(density: float, entries: int) -> int:
    """floor(density * entries), with the density read as the decimal it was written as.

    In binary, 0.29 * 100 is 28.999999999999996; 29 entries are meant.
    """
    return int(Fraction(str(density)) * entries)


def trimmed(vector: Tensor, density: float) -> Tensor:
    """A vector (P,) with all but its `kept(density, P)` largest magnitudes set to zero.

    Among equal magnitudes at the threshold, the entries that come first are kept.
    """
    import torch

    keep = kept(density, vector.numel())
    if keep == 0:
        return torch.zeros_like(vector)
    magnitudes = vector.abs()
    threshold = magnitudes.kthvalue(vector.numel() - keep + 1).values
    above, level = magnitudes > threshold, magnitudes == threshold
    level &= level.cumsum(0) <= keep - above.sum()
    return torch.where(above | level, vector, 0)


def ties(
    vectors: Tensor, density: float, combine: Combine, segments: Sequence[int] | None = None
) -> Tensor:
    """TIES on flat task vectors, without the final scaling.

    Args:
        vectors: (T,P), finite; not changed.
        density: share of entries kept, in (0,1].
        combine: "mean" divides by the number of agreeing non-zero entries, "sum" does not.
        segments: lengths that sum to P, each of which is trimmed by itself; None: all at once.

    Returns:
        (P,): the entries whose sign is that of the sum over trimmed vectors, combined; zero where
        nothing is left.
    """
    import torch

    lengths = [vectors.shape[1]] if segments is None else list(segments)
    rows = [torch.cat([trimmed(part, density) for part in v.split(lengths)]) for v in vectors]
    kept_entries = torch.stack(rows)
    positive = kept_entries.sum(0) >= 0
    agrees = torch.where(positive, kept_entries > 0, kept_entries < 0)
    merged = (kept_entries * agrees).sum(0)
    return merged / agrees.sum(0).clamp(min=1) if combine == "mean" else merged
