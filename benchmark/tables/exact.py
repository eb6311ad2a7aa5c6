"""Exact tests of paired differences, and Holm's correction; their oracles are in the tests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from math import comb, erfc, lcm, prod, sqrt

STATES = 20_000
"""So many sums are counted exactly; of more, the normal limit is used."""
FLIPPED = 14
"""Up to so many settings every pattern of signs is counted."""
DRAWN = 4096
"""Patterns of signs that are drawn where there are more settings."""


def mcnemar(strata: Sequence[tuple[int, int, int]]) -> float:
    """Two-sided mid-p value of McNemar's test that two models are equally often right.

    With one stratum it is the mid-p test of Fagerland, Lydersen and Laake (2013, Eq. 3). With
    several the statistic is what tables show, the mean over strata of the difference of the rates:
    under the hypothesis every image on which the models differ is either's with equal odds, so the
    statistic is a weighted sum of binomials, counted exactly (beyond STATES: its normal limit).

    Args:
        strata: (images, right by one alone, right by the other alone) per set of images.
    """
    pooled: dict[int, tuple[int, int]] = {}
    for images, ours, theirs in strata:  # strata of equal size weigh alike
        before = pooled.get(images, (0, 0))
        pooled[images] = (before[0] + ours, before[1] + theirs)
    scale = lcm(*pooled)
    parts = [(scale // images, ours + theirs) for images, (ours, theirs) in pooled.items()]
    differ = (ours - theirs for ours, theirs in pooled.values())
    shift = abs(sum(weight * d for (weight, _), d in zip(parts, differ, strict=True)))
    if shift == 0:
        return 1.0
    *small, (weight, size) = sorted(parts, key=lambda part: part[1])
    if prod(size + 1 for _, size in small) > STATES:
        spread = sqrt(sum(weight * weight * size for weight, size in parts))
        return erfc(shift / spread / sqrt(2))
    above = equal = 0.0
    for moved, chance in _sums(small).items():
        over, at = _tail(size, shift - moved, weight)
        above, equal = above + chance * over, equal + chance * at
    return min(1.0, 2 * above + equal)


def _sums(parts: Sequence[tuple[int, int]]) -> dict[int, float]:
    """The distribution of Σ weight (2 K - size), K binomial with even odds."""
    sums = {0: 1.0}
    for weight, size in parts:
        chances, moved = _even_odds(size)[0], dict[int, float]()
        for before, chance in sums.items():
            for k, one in enumerate(chances):
                at = before + weight * (2 * k - size)
                moved[at] = moved.get(at, 0.0) + chance * one
        sums = moved
    return sums


def _tail(size: int, least: int, weight: int) -> tuple[float, float]:
    """P(weight (2 K - size) > least) and P(weight (2 K - size) = least)."""
    chances, tails = _even_odds(size)
    k, rest = divmod(least + weight * size, 2 * weight)
    over = tails[min(max(k + 1, 0), size + 1)]
    return over, chances[k] if rest == 0 and 0 <= k <= size else 0.0


@cache
def _even_odds(size: int) -> tuple[list[float], list[float]]:
    """P(K = k) for k from 0 to `size`, and P(K >= k) for k from 0 to `size` + 1."""
    middle = size // 2
    lower = [comb(size, middle) / 2**size]
    for k in range(middle, 0, -1):  # from the middle outwards: a tail may well become 0
        lower.append(lower[-1] * k / (size - k + 1))
    # Of an even size the middle stands once.
    chances = [*reversed(lower), *lower[1 - size % 2 :]]
    return chances, [*accumulate(reversed(chances), initial=0.0)][::-1]


def sign_flips(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p value that differences are as often negative as positive (Fisher 1935, § 21).

    The share of patterns of signs whose sum is no nearer to 0 than the sum seen. All patterns are
    counted up to FLIPPED differences, else DRAWN are drawn, and the one seen counts as one more.
    """
    seen = abs(sum(differences)) * (1 - 1e-12)  # sums in another order may round otherwise
    if len(differences) <= FLIPPED:
        sums = [0.0]
        for one in differences:
            sums = [total + sign * one for total in sums for sign in (1, -1)]
        return sum(abs(total) >= seen for total in sums) / len(sums)
    rng = random.Random(seed)
    sums = [sum(rng.choice((1, -1)) * one for one in differences) for _ in range(DRAWN)]
    return (1 + sum(abs(total) >= seen for total in sums)) / (1 + DRAWN)


def holm(values: Sequence[float]) -> list[float]:
    """P values of a family, adjusted by Holm's step-down method (1979), in their own order."""
    adjusted, worst = [1.0] * len(values), 0.0
    for done, at in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        worst = max(worst, (len(values) - done) * values[at])
        adjusted[at] = min(1.0, worst)
    return adjusted
