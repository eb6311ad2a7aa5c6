"""What belongs to each table of the report: its charts, curves and accuracy per task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmark.records import Evaluation, Record
from benchmark.report.entries import Entry, entries_of
from benchmark.report.panels import Line, curves, mean_line, panel, per_task
from benchmark.scatter import Link, nowhere, scatter
from benchmark.tables.metrics import UNDEFENDED
from benchmark.tables.render import html
from benchmark.tables.rows import DERIVED, NAMES, Row, named
from benchmark.tables.table import Table, number


@dataclass(frozen=True, slots=True)
class Panel:
    """One cell's curves: its label, where it leads, what they say, and the drawing."""

    label: str
    href: str | None
    words: str
    svg: str


@dataclass(frozen=True, slots=True)
class TaskLine:
    """One row's accuracy per task: (CA as text, its share of 100, change against undefended)."""

    label: str
    href: str | None
    subject: bool
    numbers: tuple[tuple[str, float, str], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """A table and what is shown with it; drawings and table are HTML."""

    name: str
    title: str
    table: str
    charts: list[tuple[str, str]]
    panels: list[Panel]
    tasks: list[str]
    lines: list[TaskLine]


def parts(tables: Sequence[Table], every: Sequence[Entry], *, linked: bool) -> list[Part]:
    """Everything of all tables.

    Args:
        tables: in order.
        every: the cells that they were made of.
        linked: whether rows lead to the pages of their cells.
    """
    return [_part(table, every, linked) for table in tables]


def _part(table: Table, every: Sequence[Entry], linked: bool) -> Part:
    own = [(row, entries_of(row, every)) for row in table.rows]
    pages = {id(row): found[0].file for row, found in own if len(found) == 1 and linked}

    def link(row: Row) -> str | None:
        return pages.get(id(row))

    computed = [(row, [one for entry in found for one in entry.computed]) for row, found in own]
    shown = [(row, records) for row, records in computed if records]
    tasks = list(dict.fromkeys(task for row, each in shown for task in per_task(_own(row, each))))
    return Part(
        name=table.name,
        title=table.layout.title,
        table=html(table, link),
        charts=charts(table, link),
        panels=list(_panels(table, shown, link)),
        tasks=tasks,
        lines=[_task_line(table, row, each, tasks, link(row)) for row, each in shown],
    )


def charts(table: Table, link: Link = nowhere) -> list[tuple[str, str]]:
    """One scatter per group of comparable rows: its title and its SVG."""
    style = table.layout
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in table.rows:
        names = named(row.names)
        groups.setdefault(tuple(names[name] for name in style.within), []).append(row)
    kinds = {named(row.names)["peft"] for row in table.rows}
    unsaid = {"suite"} if len(kinds) > 1 else {"suite", "peft"}
    drawn = [
        (
            ", ".join(n for key, n in zip(style.within, names, strict=True) if key not in unsaid),
            scatter(rows, style.subject, style.references, link),
        )
        for names, rows in groups.items()
    ]
    return [(title, svg) for title, svg in drawn if svg]


def label(table: Table, row: Row) -> str:
    """The names that the table says of a row, the defence first, and its variant."""
    said = [column.key for column in table.columns if column.key in NAMES]
    names = named(row.names)
    others = [names[name] for name in said if name != "defense"]
    words = [names["defense"], *others] if "defense" in said or not others else others
    return " · ".join(words) + (f" ({row.variant})" if row.variant else "")


def _panels(
    table: Table, shown: Sequence[tuple[Row, Sequence[Record]]], link: Link
) -> Iterator[Panel]:
    for row, records in shown:
        found = curves(records)
        if not found or row.names["defense"] in DERIVED:
            continue
        name = label(table, row)
        words = curve_words(found)
        yield Panel(name, link(row), words, panel(found, escape(f"{name}: {words}")))


def curve_words(found: Sequence[tuple[Line, Line]]) -> str:
    """What happens between the ends of curves, e.g. "CA 80.0 → 79.4, ASR 97.7 → 0.1"."""
    said = []
    for at, name in enumerate(("CA", "ASR")):
        line = dict(mean_line([pair[at] for pair in found]))
        ends = [f"{line[s]:.1f}" for s in (0.0, 1.0) if s in line]
        said.append(f"{name} {' → '.join(ends)}" if ends else f"{name} unknown")
    return ", ".join(said)


def _own(row: Row, records: Sequence[Record]) -> list[Evaluation | None]:
    """The evaluations that a row shows: its own, or of a reference row a control's."""
    name = row.names["defense"]
    if name in DERIVED:
        return [record.controls.get(DERIVED[name][0]) for record in records]
    return [record.main for record in records]


def _task_line(
    table: Table, row: Row, records: Sequence[Record], tasks: Sequence[str], href: str | None
) -> TaskLine:
    found = per_task(_own(row, records))
    before = per_task(record.controls.get("undefended") for record in records)
    bare = row.names["defense"] == UNDEFENDED
    numbers = [
        (
            number(found.get(task), 1),
            found.get(task, 0.0),
            f"{found[task] - before[task]:+.1f}"
            if task in found and task in before and not bare
            else "",
        )
        for task in tasks
    ]
    subject = row.names["defense"] == table.layout.subject
    return TaskLine(label(table, row), href, subject, tuple(numbers))


def cell_list(cells: Sequence[Entry]) -> list[tuple[Entry, str, str]]:
    """Every cell with its CA and ASR as text."""
    return [
        (one, number(one.row.mean("ca"), 1), number(one.row.mean("asr"), 1))
        for one in sorted(cells, key=lambda one: one.row.status == "done")
    ]
