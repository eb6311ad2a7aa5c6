"""Exact order statistics of more numbers than one wants to sort, or to hold.

After Floyd and Rivest (Communications of the ACM, 1975): a sample brackets the value, one pass over
all numbers counts what lies outside the bracket and keeps what lies inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 2**16
"""Numbers of a row that are sampled, at least; a row of fewer is ranked as it is."""
WIDTH = 3.0
"""Half a bracket, in standard deviations (at most) of a sampled rank: it rarely misses."""


def kept(share: float, count: int) -> int:
    """floor(share * count), with the share read as the decimal it was written as.

    In binary, 0.29 * 100 is 28.999999999999996; 29 are meant.
    """
    return int(Fraction(str(share)) * count)


def nth_smallest(
    parts: Callable[[], Iterable[Tensor]], count: int, rank: int
) -> list[tuple[float, int]]:
    """Of each of T rows, the number that has `rank` others before it in ascending order.

    Two passes over the rows, rarely more. Beside the sample about 2 % of the numbers are held; more
    where many are equal to each other, close to the one sought and not equal to it.

    Args:
        parts: gives the rows, cut into tensors (T,n) without NaN, anew at each call.
        count: the length of a row, P.
        rank: 0 is the smallest, P - 1 the largest.

    Returns:
        Per row the number, exactly as it stands there, and how many of the row are larger.
    """
    sample = _sampled(parts(), max(1, count // SAMPLE)).sort(dim=1).values
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


def _sampled(parts: Iterable[Tensor], step: int) -> Tensor:
    """Every `step`-th number of each row, across the parts."""
    import torch

    found, skip = [], 0
    for part in parts:
        found.append(part[:, skip::step].clone())  # a view would keep the whole part in memory
        skip = (skip - part.shape[1]) % step
    return torch.cat(found, dim=1)


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
        over = numbers > self.low
        inside = numbers[over & (numbers < self.high)]
        higher, below = (int(x.count_nonzero()) for x in (over, numbers < self.low))
        above = int((numbers > self.high).count_nonzero())
        self.inside.append(inside)
        self.below += below
        self.at_low += len(numbers) - below - higher
        self.at_high += higher - len(inside) - above
        self.above += above

    def find(self, rank: int) -> tuple[float, int] | None:
        """The number at a rank and how many are larger; None where it is outside."""
        import torch

        inside = torch.cat(self.inside)
        at = rank - self.below
        larger = len(inside) + self.at_high + self.above
        if 0 <= at < self.at_low:
            return self.low, larger
        at -= self.at_low
        if 0 <= at < len(inside):
            value = float(inside.kthvalue(at + 1).values)
            return value, int((inside > value).count_nonzero()) + self.at_high + self.above
        at -= len(inside)
        return (self.high, self.above) if 0 <= at < self.at_high else None
