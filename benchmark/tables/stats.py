"""Statistics of tables: Wilson intervals, means over seeds, bootstraps over settings; per cent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import atan, cos, inf, pi, sin, sqrt
from statistics import fmean, stdev

from benchmark.records import Count

Z95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""
DRAWS = 4000
"""Resamples of a bootstrap."""

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
    """One number over seeds, or over settings, in per cent.

    Attributes:
        mean: mean over the seeds; over settings, each of which weighs the same.
        sd: sample standard deviation (ddof=1) over seeds; None with one seed and over settings.
        low: lower end of the 95 % interval: of the counts with one seed, Student's t over seeds,
            a bootstrap over settings.
        high: its upper end.
        values: the numbers that were averaged, one per seed or setting.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    values: tuple[float, ...]


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


def over_seeds(measures: Sequence[Measure], ends: tuple[float, float] = (-inf, inf)) -> Stat | None:
    """Mean and spread over seeds; images are never pooled over seeds.

    Args:
        measures: one per seed.
        ends: the least and the largest value there can be; the interval is clipped to them.
    """
    if not measures:
        return None
    if len(measures) == 1:
        one = measures[0]
        return Stat(one.value, None, one.low, one.high, (one.value,))
    numbers = tuple(measure.value for measure in measures)
    mean, sd = fmean(numbers), stdev(numbers)
    half = student(len(numbers) - 1) * sd / sqrt(len(numbers))
    return Stat(mean, sd, max(mean - half, ends[0]), min(mean + half, ends[1]), numbers)


def over_settings(numbers: Sequence[float]) -> Stat:
    """Mean over settings with a bootstrap interval; a single setting has none."""
    low, high = bootstrap(numbers) if len(numbers) > 1 else (None, None)
    return Stat(fmean(numbers), None, low, high, tuple(numbers))


@cache
def student(freedom: int) -> float:
    """97.5 % quantile of Student's t with a whole number of degrees of freedom."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """P(|T| <= t), Abramowitz and Stegun 26.7.3 (odd) and 26.7.4 (even)."""
    theta = atan(t / sqrt(freedom))
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else cos(theta) ** odd
    for k in range(2 + odd, freedom - 1, 2):
        term *= cos(theta) ** 2 * (k - 1) / k
        total += term
    return 2 / pi * (theta + sin(theta) * total) if odd else sin(theta) * total


def bootstrap(numbers: Sequence[float], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean over clusters, which are drawn with replacement.

    Args:
        numbers: one per cluster. What is inside a cluster (seeds of one setting) was averaged
            before, so it stays together; for a paired comparison each is a difference.
        draws: how many resamples.
        seed: of the draws; equal numbers give equal intervals.
    """
    means = sorted(fmean([numbers[at] for at in one]) for one in _drawn(len(numbers), draws, seed))
    cut = int(0.025 * draws)
    return means[cut], means[-1 - cut]


@cache
def _drawn(clusters: int, draws: int, seed: int) -> tuple[tuple[int, ...], ...]:
    rng = random.Random(seed)
    return tuple(tuple(rng.choices(range(clusters), k=clusters)) for _ in range(draws))
