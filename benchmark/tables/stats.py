"""Statistics of tables: Wilson intervals, and means over seeds. Per cent out, counts in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from benchmark.records import Count

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

Terms = Sequence[tuple[float, Count]]
"""A weighted sum of rates: the mean over tasks is [(1/K, count), ...], a difference has -1."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One number at one seed, in per cent, with its 95 % interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Stat:
    """One number over seeds, in per cent.

    Attributes:
        mean: mean over the seeds.
        sd: sample standard deviation (ddof=1); None with one seed.
        low: lower 95 % bound from the counts; only with one seed.
        high: upper 95 % bound from the counts; only with one seed.
        n_seeds: seeds that have this number.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n_seeds: int


def wilson(count: Count, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of hits / total, in [0,1]."""
    n, p = count.total, count.rate
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # At 0 and n hits the bound is the rate itself; rounding must not push it past.
    return min(max(centre - half, 0.0), p), max(min(centre + half, 1.0), p)


def combine(terms: Terms) -> Measure | None:
    """A weighted sum of rates in per cent, its interval made of the rates' Wilson intervals.

    The margins add in squares (MOVER, Zou and Donner 2008; for a difference, Newcombe 1998). For
    one count this is Wilson's interval. The counts are taken as independent; two models judged on
    the same images usually agree, so the interval of a difference is rather too wide.

    Returns:
        None where nothing was counted, since 0/0 has no rate.
    """
    if any(count.total == 0 for _, count in terms):
        return None
    value = sum(weight * count.rate for weight, count in terms)
    below = above = 0.0
    for weight, count in terms:
        low, high = (weight * bound for bound in wilson(count))
        centre = weight * count.rate
        below += (centre - min(low, high)) ** 2
        above += (max(low, high) - centre) ** 2
    return Measure(100 * value, 100 * (value - sqrt(below)), 100 * (value + sqrt(above)))


def over_seeds(measures: Sequence[Measure]) -> Stat | None:
    """Mean and spread over seeds; images are never pooled over seeds."""
    if not measures:
        return None
    if len(measures) == 1:
        one = measures[0]
        return Stat(one.value, None, one.low, one.high, 1)
    numbers = [measure.value for measure in measures]
    return Stat(fmean(numbers), stdev(numbers), None, None, len(numbers))
