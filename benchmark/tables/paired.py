"""Paired tests between the rows of a table: on the same images at every seed, or over settings.

Images are never pooled over seeds. Seeds share their test images, so that their p values are not
independent: a pair's p value is the largest of its seeds' (valid however they depend on each
other), and 1 where the seeds disagree on who is better. It is small only if every seed says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmark.tables.alike import telling
from benchmark.tables.exact import holm, mcnemar, sign_flips
from benchmark.tables.hits import Hits, strata
from benchmark.tables.pooled import shared
from benchmark.tables.rows import Row

LEVEL = 0.05
"""Of the family of all pairs and metrics that a table tests."""
LEAST = 6
"""So many settings two rows over settings must share: with 5 no p value is below LEVEL."""
IMAGES = {
    "ca": "ca",
    "ca_drop": "ca",
    "asr": "asr",
    "asr_excess": "asr",
    "target_recall": "target_recall",
    "recall_drop": "target_recall",
    "triggered_acc": "triggered_acc",
    "triggered_drop": "triggered_acc",
    "misclassified": "triggered_acc",
}
"""Column -> what is compared image by image: rows of one cell but for the defence share the rest of
a difference. Other columns hold chosen points or differences of differences and are not tested."""

LOWER = ("asr",)
"""Of what is compared image by image, where fewer hits are better."""


@dataclass(frozen=True, slots=True)
class Test:
    """Two rows compared in one metric.

    Attributes:
        metric: what was compared, a value of `IMAGES`; of rows over settings, the column's.
        rows: their places in the table.
        differences: first minus second in points, one per common seed or setting.
        p: two-sided.
        adjusted: by Holm over all the table's tests.
        seeds: the common seeds; empty over settings.
    """

    __test__ = False  # not a pytest class

    metric: str
    rows: tuple[int, int]
    differences: tuple[float, ...]
    p: float
    adjusted: float = 1.0
    seeds: tuple[int, ...] = ()

    @property
    def mean(self) -> float:
        """The mean difference in points."""
        return fmean(self.differences)


def tested(key: str, row: Row) -> str | None:
    """What a column's numbers are tested as, if they are."""
    return key if row.parts else IMAGES.get(key)


def tests(
    rows: Sequence[Row],
    rivals: Callable[[Row], Sequence[Row]],
    columns: Iterable[str],
    hits: Hits,
) -> tuple[Test, ...]:
    """Every test that the rows allow, adjusted for their number.

    Args:
        rows: of the table, in order.
        rivals: of a row, those it is ranked with (itself among them), as objects of `rows`.
        columns: keys of the columns whose best number is looked for.
        hits: per-image hits of the rows' models.
    """
    found = []
    for first, second in pairs(rows, rivals):
        metrics = dict.fromkeys(tested(key, rows[first]) for key in columns)
        for metric in filter(None, metrics):
            compare = _over_settings if rows[first].parts else _over_seeds
            if (one := compare(metric, (first, second), rows, hits)) is not None:
                found.append(one)
    every = zip(found, holm([one.p for one in found]), strict=True)
    return tuple(
        Test(one.metric, one.rows, one.differences, one.p, adjusted, one.seeds)
        for one, adjusted in every
    )


def pairs(rows: Sequence[Row], rivals: Callable[[Row], Sequence[Row]]) -> list[tuple[int, int]]:
    """The places of every two rows with numbers that are ranked with each other, in order."""
    places = {id(row): at for at, row in enumerate(rows)}
    groups = ([places[id(one)] for one in rivals(row)] for row in rows if row.stats)
    return sorted({(one, two) for group in groups for one in group for two in group if one < two})


def _over_seeds(
    metric: str, places: tuple[int, int], rows: Sequence[Row], hits: Hits
) -> Test | None:
    one, other = (rows[at] for at in places)
    if not same_but_defence(one, other):
        return None  # another attack, say: other triggers, or other images
    ours, theirs = ({record.seed: record for record in row.records} for row in (one, other))
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    each = []
    for seed in seeds:
        mine, its = ours[seed].main, theirs[seed].main
        each.append(None if mine is None or its is None else strata(metric, mine, its, hits))
    known = [one for one in each if one is not None]
    if not known or len(known) < len(each):
        return None
    differences = tuple(
        100 * fmean((ours - theirs) / images for images, ours, theirs in one) for one in known
    )
    agree = max(differences) <= 0 or min(differences) >= 0
    p = max(mcnemar(one) for one in known) if agree else 1.0
    return Test(metric, places, differences, p, seeds=seeds)


def same_but_defence(one: Row, other: Row) -> bool:
    """Whether two rows' cells differ in the defence alone, by what tells cells apart."""
    ours, theirs = (telling(row.config) | {"defense": None} for row in (one, other))
    return ours == theirs


def _over_settings(
    metric: str, places: tuple[int, int], rows: Sequence[Row], hits: Hits
) -> Test | None:
    """On the settings that both rows have; `hits` are not needed."""
    one, other = (rows[at] for at in places)
    known = tuple(ours - theirs for ours, theirs in shared(one, other, metric))
    return Test(metric, places, known, sign_flips(known)) if len(known) >= LEAST else None
