"""Exact order statistics of more numbers than one wants to sort, or to hold.

After Floyd and Rivest (Communications of the ACM, 1975): a sample brackets the value, one pass over
all numbers counts what lies outside the bracket and keeps what lies inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    Rows = Sequence[Tensor] | Tensor
    """T rows (n,), or (T,n)."""

SAMPLE = 2**16
"""Numbers of a row that are sampled, at least; a row of fewer is ranked as it is."""
WIDTH = 3.0
"""Half a bracket, in standard deviations (at most) of a sampled rank: it rarely misses."""


def kept(share: float, count: int) -> int:
    """floor(share * count), with the share read as the decimal it was written as.

    In binary, 0.29 * 100 is 28.999999999999996; 29 are meant.
    """
    return int(Fraction(str(share)) * count)


class Ranked(NamedTuple):
    """A number of a row: how many of the row are larger, and how many are equal, itself counted."""

    value: float
    larger: int
    equal: int


def nth_smallest(
    parts: Callable[[], Iterable[Rows]],
    count: int,
    rank: int,
    thin: Callable[[int], Iterable[Rows]] | None = None,
) -> list[Ranked]:
    """Of each of T rows, the number that has `rank` others before it in ascending order.

    Two passes over the rows, rarely more. Beside the sample about 2 % of the numbers are held; more
    where many are equal to each other, close to the one sought and not equal to it.

    Args:
        parts: gives the rows, cut into T tensors (n,) or one (T,n), without NaN, anew at each call.
        count: the length of a row, P.
        rank: 0 is the smallest, P - 1 the largest.
        thin: gives every so-many-th number of each row, for a sample; where making few numbers
            costs less than making all, this spares a pass.

    Returns:
        Per row the number, exactly as it stands there.
    """
    step = max(1, count // SAMPLE)
    taken = _every(parts(), step) if thin is None else thin(step)
    sample = _joined(taken).sort(dim=1).values
    size = sample.shape[1]
    # Of a sample that is the whole row, the bracket is its one number.
    middle, half = rank / count * size, WIDTH * size**0.5 if size < count else 0.0
    while True:
        ends = _at(sample, middle - half), _at(sample, middle + half)
        brackets = [_Bracket(low, high) for low, high in zip(*ends, strict=True)]
        for part in [sample] if size == count else parts():
            for bracket, row in zip(brackets, part, strict=True):
                bracket.add(row)
        found = [one for bracket in brackets if (one := bracket.find(rank)) is not None]
        if len(found) == len(brackets):
            return found
        half = 8 * half + 1


def _every(parts: Iterable[Rows], step: int) -> Iterator[list[Tensor]]:
    """Every `step`-th number of each row, across the parts."""
    skip = 0
    for part in parts:
        yield [row[skip::step].clone() for row in part]  # a view would keep the part in memory
        skip = (skip - len(part[0])) % step


def _joined(parts: Iterable[Rows]) -> Tensor:
    """The rows as one tensor."""
    import torch

    return torch.stack([torch.cat(row) for row in zip(*parts, strict=True)])


def _at(ascending: Tensor, place: float) -> list[float]:
    """Per row the number at a place (rounded), infinite beyond its ends."""
    index = round(place)
    if 0 <= index < ascending.shape[1]:
        return ascending[:, index].tolist()
    return [float("-inf" if index < 0 else "inf")] * len(ascending)


@dataclass
class _Bracket:
    """Numbers of one row against an interval."""

    low: float
    high: float
    below: int = 0
    at_low: int = 0
    inside: list[Tensor] = field(default_factory=list)
    at_high: int = 0
    above: int = 0

    def add(self, numbers: Tensor) -> None:
        """Count what lies outside or on the ends, keep what lies strictly inside."""
        within = numbers >= self.low
        reached = int(within.count_nonzero())
        few = numbers[within.logical_and_(numbers <= self.high)]
        at_low = few == self.low
        at_high = (few == self.high).logical_and_(~at_low)  # where the ends are one, it is low
        self.inside.append(few[~(at_low | at_high)])
        self.below += len(numbers) - reached
        self.at_low += int(at_low.count_nonzero())
        self.at_high += int(at_high.count_nonzero())
        self.above += reached - len(few)

    def find(self, rank: int) -> Ranked | None:
        """The number at a rank; None where it is outside."""
        import torch

        inside = torch.cat(self.inside)
        at = rank - self.below
        larger = len(inside) + self.at_high + self.above
        if 0 <= at < self.at_low:
            return Ranked(self.low, larger, self.at_low)
        at -= self.at_low
        if 0 <= at < len(inside):
            value = float(inside.kthvalue(at + 1).values)
            larger, equal = (int(x.count_nonzero()) for x in (inside > value, inside == value))
            return Ranked(value, larger + self.at_high + self.above, equal)
        at -= len(inside)
        return Ranked(self.high, self.above, self.at_high) if 0 <= at < self.at_high else None
