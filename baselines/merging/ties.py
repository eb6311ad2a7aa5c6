"""TIES-Merging (Yadav et al., NeurIPS 2023): trim, elect sign, disjoint merge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.pieces import (
    Change,
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
    from benchmark.quantiles import Rows

Combine = Literal["mean", "sum"]
Trim = Literal["global", "per_tensor"]


@component
class Ties:
    """θ_m = θ_0 + λ TIES(τ_1, ..., τ_T).

    Deviations: exactly floor(density * d) entries are kept, where the authors' code keeps one more
    and fails at density 1; among equal magnitudes the first are kept (tensors in sorted order of
    names); a sign sum of exactly 0 counts as +1 (as in peft and mergekit; the authors' code takes
    the sign of the majority of all entries).

    Attributes:
        density: share of the entries of each task vector that is kept.
        trim: "global" ranks the entries of the whole flattened vector (the authors' code),
            "per_tensor" those of each tensor (mergekit, peft).
        scope: what the flattened vector holds: "visual" the image tower, "openclip_legacy" also
            the untrained text tensors of the published CLIP numbers, so that a global trim keeps
            more of the tower.
        combine: "mean" or "sum" of the entries that agree with the elected sign.
        scale: λ.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "O(TP) time, three passes; memory: result, 2 % of T task vectors"
    neutral: ClassVar[Mapping[str, Any]] = {"scope": "visual"}
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
        """Merge the trimmed task vectors where they agree in sign."""
        rule = Trimming(self.density, self.trim, self.scope, self.combine)
        return merged_by_ties(base, experts, rule, self.scale)


@dataclass(frozen=True, slots=True)
class Trimming:
    """The choices of TIES; attributes as those of `Ties`."""

    density: float
    trim: Trim
    scope: Scope
    combine: Combine


def merged_by_ties(
    base: StateDict,
    experts: Sequence[Expert],
    how: Trimming,
    scale: float,
    change: Change | None = None,
) -> Model:
    """`base + scale * TIES(task vectors)`, in pieces; equal to `ties` on the flattened vectors.

    Args:
        base: θ_0.
        experts: at least one.
        how: density, trim, scope and combine.
        scale: λ.
        change: what is merged in place of a task vector (DARE's dropping), by pieces.
    """
    check_experts(base, experts)
    per_tensor = how.trim == "per_tensor"
    levels: dict[str, list[Cut]] = {}
    keep = nonzero = 0
    for group in _groups(base, per_tensor):
        zeros = 0 if per_tensor else untrained(base, how.scope)
        count = count_entries(group) + zeros
        keep += min(kept(how.density, count), count - zeros)
        found = cuts(
            lambda g=group, z=zeros: rows_of(g, experts, change, z),
            count,
            kept(how.density, count),
            None if change else lambda step, g=group, z=zeros: thinned(g, experts, step, z),
        )
        levels |= dict.fromkeys(group, found)

    def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
        nonlocal nonzero
        changed = (change(i, piece, row) if change else row for i, row in enumerate(rows))
        pairs = zip(changed, levels[piece.name], strict=True)
        merged = elected((cut(row) for row, cut in pairs), how.combine)
        nonzero += int(merged.count_nonzero())
        return merged

    model = merged_in_pieces(base, experts, rule, scale)
    total = count_entries(base)
    shares = {"kept_per_task": keep / total, "nonzero": nonzero / total}
    return replace(model, info={**model.info, **shares})


def _groups(base: StateDict, per_tensor: bool) -> list[StateDict]:
    """What is trimmed together: each tensor, or all of them."""
    floats = {name: base[name] for name in sorted(base) if base[name].is_floating_point()}
    return [{name: value} for name, value in floats.items()] if per_tensor else [floats]


@dataclass
class Cut:
    """Keeps the magnitudes above a level and the first so many at it; fed in pieces, in order.

    Attributes:
        level: in [0,∞].
        at_level: how many at it are kept from here on.
        spare: whether there are more of them than are kept.
    """

    level: float
    at_level: int
    spare: bool

    def __call__(self, row: Tensor) -> Tensor:
        """A piece (n,), which is used up, with the entries that go set to 0."""
        return row.mul_(self.stays(row))

    def stays(self, row: Tensor) -> Tensor:
        """Which entries of a piece (n,) are kept."""
        magnitudes = row.abs()
        stays = magnitudes >= self.level
        if self.spare:
            equal = magnitudes == self.level
            stays &= ~equal | (equal.cumsum(0) <= self.at_level)
            self.at_level = max(0, self.at_level - int(equal.count_nonzero()))
        return stays


Parts = Callable[[], "Iterator[Rows]"]


def cuts(
    parts: Parts,
    count: int,
    keep: int,
    thin: Callable[[int], Iterator[Rows]] | None = None,
) -> list[Cut]:
    """What keeps the `keep` largest magnitudes of each row.

    Args:
        parts: gives the task vectors in pieces, T times (n,) or (T,n), anew at each call.
        count: the length of a row.
        keep: 0 to count; of equal magnitudes the first.
        thin: gives every so-many-th entry (see `benchmark.quantiles.nth_smallest`).
    """
    if keep == 0:
        return [Cut(float("inf"), 0, False) for _ in next(parts())]
    few = thin and (lambda step: _magnitudes(thin(step)))
    found = nth_smallest(lambda: _magnitudes(parts()), count, count - keep, few)
    return [Cut(one.value, keep - one.larger, one.equal > keep - one.larger) for one in found]


def _magnitudes(parts: Iterator[Rows]) -> Iterator[Rows]:
    return ([row.abs() for row in part] for part in parts)


def trimmed(vector: Tensor, density: float) -> Tensor:
    """A vector (P,) with all but its `kept(density, P)` largest magnitudes set to zero.

    Among equal magnitudes at the threshold, the entries that come first are kept.
    """
    count = vector.numel()
    (cut,) = cuts(lambda: iter([vector[None]]), count, kept(density, count))
    return cut(vector.clone())


def elected(vectors: Iterable[Tensor], combine: Combine) -> Tensor:
    """Sign election and disjoint merge of trimmed vectors, T times (P,): (P,).

    "mean" divides by the number of agreeing non-zero entries. What is positive and what is negative
    is added up apart, one vector after the other, so that no more than one need exist at a time.
    """
    import torch

    rows = iter(vectors)
    first = next(rows)
    total, up, down = first.clone(), first.clamp(min=0), first.clamp(max=0)
    over, under = (first > 0).double(), (first < 0).double()  # how many agree, for the mean
    for row in rows:
        total += row
        up += row.clamp(min=0)
        down += row.clamp(max=0)
        if combine == "mean":
            over += row > 0
            under += row < 0
    positive = total >= 0
    merged = torch.where(positive, up, down)
    if combine == "mean":
        merged /= torch.where(positive, over, under).clamp_(min=1)
    return merged


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
    return elected(rows, combine)
