"""Cells over their seeds, as the report has a page of each, and the rows that lead there."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.records import Record
from benchmark.store import canonical
from benchmark.tables.alike import telling
from benchmark.tables.metrics import UNDEFENDED
from benchmark.tables.rows import DERIVED, UNSAID, Row, named, rows

FOLDER = "cells"


@dataclass(frozen=True, slots=True)
class Entry:
    """One cell.

    Attributes:
        records: one per seed, in their order.
        row: its numbers over the seeds.
        file: its page, as seen from the report's folder.
    """

    records: tuple[Record, ...]
    row: Row
    file: str

    @property
    def name(self) -> str:
        """The defence, with the values in which it differs from cells of the same names."""
        return self.row.names["defense"] + (f" ({self.row.variant})" if self.row.variant else "")

    @property
    def computed(self) -> tuple[Record, ...]:
        """The records that have numbers."""
        return tuple(one for one in self.records if one.status == "done" and one.main is not None)


def entries(records: Iterable[Record]) -> list[Entry]:
    """One entry per cell, in the order of names and variant."""
    every = list(records)
    groups: dict[str, list[Record]] = {}
    for record in every:
        groups.setdefault(_address(record.names, record.config), []).append(record)
    found = [(row, _address(row.names, row.config)) for row in rows(every)]
    return [
        Entry(
            tuple(sorted(groups[address], key=lambda record: record.seed)),
            row,
            f"{FOLDER}/{_slug(row)}-{address}.html",
        )
        for row, address in found
        if address in groups
    ]


def _address(names: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Ten hex digits that tell cells apart as `rows` does, whatever their seeds."""
    text = canonical([dict(names), telling(config)])
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _slug(row: Row) -> str:
    said = [value for name, value in named(row.names).items() if value != UNSAID.get(name)]
    return re.sub(r"[^A-Za-z0-9_.]+", "_", "-".join(said[1:]))


def entries_of(row: Row, every: Sequence[Entry]) -> list[Entry]:
    """The cells that a row of a table shows; of a reference row, the cell it is read off.

    Of a row over several settings these are many; of what was never recorded there are none.
    """
    if row.parts:
        return [one for part in row.parts for one in entries_of(part, every)]
    names = dict(row.names)
    if names["defense"] in DERIVED:
        names["defense"] = UNDEFENDED
    if not row.config:
        return []
    return [one for one in every if dict(one.row.names) == names and _shows(row, one)]


def _shows(row: Row, entry: Entry) -> bool:
    """Whether everything that the row knows of its values is so in the cell."""
    config = telling(entry.records[0].config)
    same = all(config.get(name) == value for name, value in telling(row.config).items())
    return same and row.setting == entry.row.setting
