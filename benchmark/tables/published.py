"""Published numbers: each with its source and how we know it, never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal

from benchmark.components import component
from benchmark.tables.rows import UNSAID, Row, named

NOT_RUN = "not run here"


@component
class Published:
    """Numbers of one row of a publication.

    Attributes:
        names: the names (attack, merge, ...) of our row that comes nearest.
        values: metric, or another word for what we do not measure -> per cent.
        source: where the numbers stand.
        status: read in the source itself; second-hand, from notes about it; or a re-run by others.
        where: the publication's setting if nothing here corresponds to it; such numbers get a row
            of their own.
    """

    names: Mapping[str, str]
    values: Mapping[str, float]
    source: str
    status: Literal["read", "second-hand", "re-run"]
    where: str = field(default="")

    def belongs(self, row: Row) -> bool:
        """Whether these numbers stand beside the row's own."""
        if self.where:
            return row.status == "published" and row.variant == self.where and self._named(row)
        return row.status != "published" and self._named(row)

    def _named(self, row: Row) -> bool:
        ours = {**named(row.names), **dict(row.names)}
        return all(ours.get(group) == name for group, name in self.names.items())


def with_published(
    rows: Sequence[Row], published: Sequence[Published], defaults: Mapping[str, str]
) -> list[Row]:
    """The rows, and one without numbers of ours per publication's row that has none here.

    Args:
        rows: measured or planned.
        published: of the table.
        defaults: names that publications' rows take from the table (the suite).
    """
    out = list(rows)
    for one in published:
        if any(one.belongs(row) for row in out):
            continue
        names = {**defaults, **{g: n for g, n in UNSAID.items() if g == "stress"}, **one.names}
        status, reason = ("published", None) if one.where else ("missing", NOT_RUN)
        out.append(Row(names, one.where, status, reason))
    return out


def published_value(
    published: Sequence[Published], row: Row, metric: str
) -> tuple[float, str] | None:
    """A row's published number and the letter of its source."""
    marks = {pair: chr(ord("a") + at) for at, pair in enumerate(_sources(published))}
    for one in published:
        if metric in one.values and one.belongs(row):
            return one.values[metric], marks[one.source, one.status]
    return None


def sources(published: Sequence[Published]) -> list[str]:
    """The sources in words, by letter."""
    return [
        f"{chr(ord('a') + at)}: {source} ({status})"
        for at, (source, status) in enumerate(_sources(published))
    ]


def _sources(published: Sequence[Published]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.source, one.status) for one in published))
