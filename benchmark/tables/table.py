"""A table: rows in the order of its layout, with its caption and its footnotes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.tables.layout import Column, Layout, layout
from benchmark.tables.metrics import COSTS
from benchmark.tables.pooled import Place, place, pooled, settings, too_weak
from benchmark.tables.reading import pareto_notes
from benchmark.tables.rows import NAMES, Row, measured_on, named, rows
from benchmark.tables.stats import Stat
from benchmark.tables.worst import worst, worst_note

EMBEDDED = "mini"
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
    """

    name: str
    layout: Layout
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """The text of one place in the table, and whether it is the best among comparable rows."""

    text: str
    best: bool = False


def make(name: str, records: Iterable[Record], planned: Iterable[Mapping[str, Any]] = ()) -> Table:
    """The table of conf/table/<name>.yaml over these records.

    Args:
        name: the layout.
        records: of any cells; those that the layout does not show are left out.
        planned: names (and seed) of cells that ought to be there; absent ones are rows too.
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
    kept = tuple(sorted(shown, key=lambda row: (style.rows.place(row) or (), row.variant)))
    return Table(name, style, kept, _columns(style, kept), tuple(sorted(map(" ".join, weak))))


def _columns(style: Layout, kept: Sequence[Row]) -> tuple[Column, ...]:
    """The layout's columns; without folded ones, with adapter, variant and status where needed."""
    columns = [column for column in style.columns if column.key not in folded(style, kept)]
    shown = {column.key for column in style.columns}
    if "peft" not in shown and len({named(row.names)["peft"] for row in kept}) > 1:
        columns.insert(0, Column(key="peft", header="Fine-tuning"))
    words = sum(column.key in NAMES for column in columns)
    if any(row.variant for row in kept):
        columns.insert(words, Column(key="variant", header="Variant"))
    if any(row.status != "done" for row in kept):
        columns.append(Column(key="reason", header="Not done"))
    return tuple(columns)


def folded(style: Layout, kept: Sequence[Row]) -> dict[str, str]:
    """Name columns that say the same in every row, and what they say."""
    values = {name: {named(row.names)[name] for row in kept} for name in style.fold}
    return {name: next(iter(one)) for name, one in values.items() if len(one) == 1}


def cells(table: Table) -> list[list[Cell]]:
    """The texts of all rows, left to right."""
    return [
        [Cell(text(row, column), _best(table, row, column)) for column in table.columns]
        for row in table.rows
    ]


def text(row: Row, column: Column) -> str:
    """What stands in a column of a row."""
    key = column.key
    if key in NAMES:
        return named(row.names)[key]
    if not column.numeric:
        return str(getattr(row, key) or ("" if key in ("variant", "reason") else ABSENT))
    if key == "n_seeds":
        return str(len(row.seeds)) if row.seeds else ABSENT
    if key == "n_settings":
        return str(len(settings(row))) if row.parts else ABSENT
    if key in COSTS:
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


def _best(table: Table, row: Row, column: Column) -> bool:
    """Whether no comparable row shows a better number; never where nothing competes."""
    rivals = table.layout.comparable(row, table.rows)
    mine = column.number(row)
    if column.better is None or mine is None or len(rivals) < 2 or row not in rivals:
        return False
    sign = 1 if column.better == "higher" else -1
    every = [
        sign * round(one, column.decimals) for r in rivals if (one := column.number(r)) is not None
    ]
    return sign * round(mine, column.decimals) == max(every)


def caption(table: Table) -> list[str]:
    """The sentences that stand with the table: what, where, how chosen, who saw what."""
    style, kept = table.layout, table.rows
    fixed = ", ".join(f"{name} {value}" for name, value in folded(style, kept).items())
    lines = [
        style.caption,
        _suites(kept, style.evaluate),
        f"In every row: {fixed}." if fixed else "",
    ]
    lines += [_seeds(kept), f"Selection: {style.selection}"]
    lines += [f"{style.subject} is a {style.subject_is}."]
    lines += [_seen(table), _bold(table)]
    return [line for line in lines if line]


def notes(table: Table) -> list[str]:
    """The footnotes: the layout's, then those that the numbers call for."""
    style = table.layout
    said = [*style.notes, *pareto_notes(table.rows, style)]
    if table.left_out:
        said.append(
            f"Not counted, since undefended ASR is below {style.least_asr:g} % there: "
            f"{'; '.join(table.left_out)}."
        )
    if style.group_by == "worst" and (note := worst_note(table.rows, style.references)):
        said.append(note)
    return said


def _suites(kept: Sequence[Row], evaluate: str) -> str:
    names = sorted({row.names["suite"] for row in kept})
    inner = [name for name in names if name == EMBEDDED or name.startswith(f"{EMBEDDED}_")]
    said = [f"embedded suite '{name}' (shows the mechanism, is not CLIP)" for name in inner]
    said += [f"suite '{name}'" for name in names if name not in inner]
    images = ", dev images that no method was granted" if evaluate == "dev" else ""
    return f"Measured on: {', '.join(said)}{images}."


def _seeds(kept: Sequence[Row]) -> str:
    sets = sorted({row.seeds for row in kept if row.seeds})
    said = " or ".join(", ".join(str(seed) for seed in seeds) for seeds in sets) or "none done"
    lines = [f"Seeds: {said}."]
    if any(row.parts for row in kept):
        lines += ["Numbers are means over settings, each the mean over its seeds; brackets are"]
        lines += ["95 % bootstrap intervals, whole settings drawn with replacement."]
        return " ".join(lines)
    if any(len(seeds) > 1 for seeds in sets):
        lines += ["± is the sample standard deviation over seeds."]
    if any(len(seeds) == 1 for seeds in sets):
        lines += ["With one seed, brackets are 95 % Wilson intervals from the counts."]
    return " ".join(lines)


def _seen(table: Table) -> str:
    headers = [column.header for column in table.columns if column.key == "sees"]
    if headers:
        said = f"Column '{headers[0]}' is what each row was allowed to see"
    else:
        own = {f"{row.names['defense']}: {row.sees}" for row in table.rows if row.needs}
        said = f"What each row was allowed to see: {'; '.join(sorted(own))}"
    attackers = {
        f"{row.names['attack']}: {row.needs['attack']}"
        for row in table.rows
        if "attack" in row.needs
    }
    return said + (f"; the attacker ({'; '.join(sorted(attackers))})." if attackers else ".")


def _bold(table: Table) -> str:
    if not any(cell.best for line in cells(table) for cell in line):
        return ""
    headed = {column.key for column in (*table.layout.columns, *table.columns)} - {"suite"}
    shared = [name for name in table.layout.within if name in headed]
    present = {row.names["defense"] for row in table.rows}
    outside = [name for name in table.layout.references if name in present]
    unranked = f"; {', '.join(outside)} are references and not ranked" if outside else ""
    return f"Bold: best among rows of equal {' and '.join(shared)}{unranked}."
