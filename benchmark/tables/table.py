"""A table: rows in the order of its layout, with its caption and its footnotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.tables.hits import Hits
from benchmark.tables.layout import FROM_PAPERS, Column, Layout, layout
from benchmark.tables.metrics import BESIDE
from benchmark.tables.paired import LEVEL, LOWER, Test, tested, tests
from benchmark.tables.pooled import Place, place, pooled, settings, too_weak
from benchmark.tables.published import Published, published_value, with_published
from benchmark.tables.rows import NAMES, Row, measured_on, named, rows
from benchmark.tables.stats import Stat
from benchmark.tables.whole import Plan
from benchmark.tables.worst import worst

ABSENT = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """What every renderer is given.

    Attributes:
        name: the layout's file name.
        layout: its values.
        rows: the rows shown, in order.
        columns: the columns shown, in order.
        left_out: settings that are not counted, since the attack did too little there.
        tests: its rows compared in pairs.
        plan: what it consists of when all is done, as far as that is known.
    """

    name: str
    layout: Layout
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    left_out: tuple[str, ...] = ()
    tests: tuple[Test, ...] = ()
    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True, slots=True)
class Cell:
    """The text of one place in the table, and whether it is the best among comparable rows."""

    text: str
    best: bool = False


def make(
    name: str,
    records: Iterable[Record],
    planned: Iterable[Mapping[str, Any]] = (),
    hits: Hits | None = None,
    plan: Plan | None = None,
) -> Table:
    """The table of conf/table/<name>.yaml over these records.

    Args:
        name: the layout.
        records: of any cells; those that the layout does not show are left out.
        planned: names (and seed) of cells that ought to be there; absent ones are rows too.
        hits: per-image hits of the records' models; without them nothing is tested over seeds.
        plan: what the table's experiments consist of; what is absent of it is said in the caption.
    """
    style = layout(name)
    records = [record for record in records if measured_on(record) == style.evaluate]
    shown = [row for row in rows(records, planned) if style.rows.place(row) is not None]
    if not shown:
        raise BenchError(f"there are no records for table '{name}'; run: {style.command}")
    weak: set[Place] = set()
    if style.group_by == "setting":
        weak = too_weak(shown, style.least_asr)
        shown = pooled([row for row in shown if place(row) not in weak], style.subject)
    elif style.group_by == "worst":
        shown = worst(shown, style.least_asr)
    shown = with_published(shown, style.published, {"suite": style.rows.suite[0]})
    shown = sorted(shown, key=lambda row: (style.rows.place(row) or (), row.variant))
    called = style.variants
    kept = tuple(replace(row, variant=called.get(row.variant, row.variant)) for row in shown)
    ranked = [column.key for column in style.columns if column.ranked]
    found = tests(kept, lambda row: style.comparable(row, kept), ranked, hits or {})
    left_out = tuple(sorted(map(" ".join, weak)))
    columns = _columns(style, kept)
    return Table(name, style, kept, columns, left_out, found, plan or Plan())


def _columns(style: Layout, kept: Sequence[Row]) -> tuple[Column, ...]:
    """The layout's columns; without folded ones, with adapter, variant and status where needed."""
    columns = [column for column in style.columns if column.key not in folded(style, kept)]
    shown = {column.key for column in style.columns}
    if "peft" not in shown and len({named(row.names)["peft"] for row in kept}) > 1:
        columns.insert(0, Column(key="peft", header="Fine-tuning"))
    words = sum(column.key in NAMES for column in columns)
    if any(row.variant for row in kept):
        columns.insert(words, Column(key="variant", header="Variant"))
    # A row over settings counts those; its seeds stand in the caption.
    seeds = {row.seeds for row in kept if row.seeds and not row.parts}
    if len(seeds) > 1 and "n_seeds" not in shown:
        columns.append(Column(key="n_seeds", header="Seeds"))
    if any(row.status not in ("done", "published") for row in kept):
        columns.append(Column(key="reason", header="Not done"))
    return tuple(columns)


def folded(style: Layout, kept: Sequence[Row]) -> dict[str, str]:
    """Name columns that say the same in every row, and what they say."""
    values = {name: {named(row.names)[name] for row in kept} for name in style.fold}
    return {name: next(iter(one)) for name, one in values.items() if len(one) == 1}


def cells(table: Table) -> list[list[Cell]]:
    """The texts of all rows, left to right."""
    return [
        [
            Cell(text(row, column, table.layout.published), _best(table, at, column))
            for column in table.columns
        ]
        for at, row in enumerate(table.rows)
    ]


def text(row: Row, column: Column, published: Sequence[Published] = ()) -> str:
    """What stands in a column of a row."""
    key = column.key
    if column.show in FROM_PAPERS:
        return _beside(row, column, published)
    if key in NAMES:
        return named(row.names)[key]
    if key == "curve":
        return " ".join(number(asr, column.decimals) for _, _, asr in row.curve) or ABSENT
    if not column.numeric:
        return str(getattr(row, key) or ("" if key in ("variant", "reason") else ABSENT))
    if key == "n_seeds":
        return str(len(row.seeds)) if row.seeds else ABSENT
    if key == "n_settings":
        return str(len(settings(row))) if row.parts else ABSENT
    if key in BESIDE:
        return number(row.costs.get(key), column.decimals)
    shown, stat = number(column.number(row), column.decimals), row.stats.get(key)
    return shown if stat is None else _spread(shown, stat, column)


def _spread(shown: str, stat: Stat, column: Column) -> str:
    """The number, with its deviation or interval where the column shows one."""
    if column.spread and stat.sd is not None:
        return f"{shown} ± {number(stat.sd, column.decimals)}"
    if column.spread and stat.low is not None:
        low, high = (number(bound, column.decimals) for bound in (stat.low, stat.high))
        return f"{shown} [{low}, {high}]"
    return shown


def number(value: float | None, decimals: int) -> str:
    """A number with fixed decimals, never "-0.0"."""
    if value is None:
        return ABSENT
    shown = f"{value:.{decimals}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def _beside(row: Row, column: Column, published: Sequence[Published]) -> str:
    """The published number with its source's letter, or ours minus it, signed."""
    found, ours = published_value(published, row, column.key), row.mean(column.key)
    if found is None:
        return ABSENT
    value, mark = found
    if column.show == "published":
        return f"{number(value, column.decimals)} ({mark})"
    if ours is None:
        return ABSENT
    shown = number(ours - value, column.decimals)
    return shown if shown.startswith("-") or float(shown) == 0 else f"+{shown}"


def _best(table: Table, at: int, column: Column) -> bool:
    """Whether a row's number is the best shown and significantly better than each rival's."""
    row = table.rows[at]
    rivals = [other for other in table.layout.comparable(row, table.rows) if other is not row]
    known = [one for rival in rivals if (one := column.number(rival)) is not None]
    mine = column.number(row)
    ranked = row.names["defense"] not in table.layout.references
    if not column.ranked or mine is None or not known or not ranked:
        return False
    sign = 1 if column.better == "higher" else -1
    shown = [sign * round(one, column.decimals) for one in known]
    if sign * round(mine, column.decimals) < max(shown):
        return False
    won = [one for one in table.tests if at in one.rows and _favours(one, at, column, row)]
    return len(won) == len(known)


def _favours(test: Test, at: int, column: Column, row: Row) -> bool:
    """Whether a test says that the row at place `at` is better in what the column shows."""
    if test.metric != tested(column.key, row) or test.adjusted >= LEVEL:
        return False
    lower = column.better == "lower" if row.parts else test.metric in LOWER
    gain = test.mean if at == test.rows[0] else -test.mean
    return gain < 0 if lower else gain > 0
