"""`lfpm-bench report`: which tables and records go into a report, and where it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import join

from benchmark import tables as layouts
from benchmark.components import options
from benchmark.config import store_of
from benchmark.diagnostics.findings import find
from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.results import gathered
from benchmark.store import Store

Source = tuple[str, list[Path]]
"""A table and its folders of records; none: the store."""


def report(
    names: Sequence[str],
    words: Sequence[str],
    folder: Path | None,
    diagnostics: Path | None,
    out: Path,
    *,
    partial: bool,
) -> Path:
    """Write tables, charts, triggers and a page per cell; returns the first page.

    Args:
        names: of tables and of their experiments; none: all tables that have records.
        words: further Hydra words the experiments were run with.
        folder: take every record in this folder (or, of each table, in the folders below it that
            have the table's name, or its experiments', and `records` in them) instead of the
            planned ones in the store.
        diagnostics: where diagnoses are; None: `diagnostics` beside the records of `folder`.
        out: the folder; a name ending in `.html` makes a single page without pages of cells.
        partial: show missing cells as rows instead of refusing; without names it is always so.
    """
    from benchmark.report import GENERAL, Page, write_folder, write_report

    made, records = _tables(names, words, folder, partial=partial)
    # Where the store is says nothing about the cells, and may be private.
    told = [word for word in words if not word.startswith("store=")]
    asked = [*names, *told, *([] if folder is None else ["--records", str(folder)])]
    page = Page(
        tables=made,
        records=list(records.values()),
        command=_commands(made, join(["lfpm-bench", "report", *asked])),
        diagnoses=_diagnoses(names, folder, diagnostics),
        notes=GENERAL,
    )
    try:
        if out.suffix == ".html":
            return write_report(out, page)
        return write_folder(out, page, Store(store_of(words)))
    except OSError as error:
        raise BenchError(
            f"--out={out} cannot be written ({error.strerror}); give another folder"
        ) from error


def _tables(
    names: Sequence[str], words: Sequence[str], folder: Path | None, *, partial: bool
) -> tuple[list[layouts.Table], dict[str, Record]]:
    """The tables, and the records that they show by their keys."""
    made, records = [], {}
    for name, folders in _sources(names, folder):
        found, absent, hits, plan = gathered(name, words, folders, partial=partial or not names)
        if not names and not _any_shown(name, found):
            continue
        made.append(layouts.make(name, found, absent, hits, plan))
        records |= {one.key: one for one in found}
    if not made:
        raise BenchError(
            f"there are no records of any table in {folder or store_of(words)}: run an experiment "
            "(`lfpm-bench ls experiments`) or name a table"
        )
    return made, records


def _any_shown(name: str, records: Sequence[Record]) -> bool:
    """Whether a table has anything to show of these records."""
    order = layouts.layout(name).rows
    return any(order.shows(record.names) for record in records)


def _sources(names: Sequence[str], folder: Path | None) -> Iterator[Source]:
    """Where the records of each table are; without names, of every table that may have some."""
    for name in names or options("table"):
        if folder is None:
            yield name, []
        elif names or layouts.below(folder, name):
            yield name, layouts.folders(name, [folder])


def _diagnoses(names: Sequence[str], folder: Path | None, diagnostics: Path | None) -> list[Path]:
    if diagnostics is not None:
        return find(diagnostics)
    if folder is None:
        return []
    known = [source for _, sources in _sources(names, folder) for source in sources]
    return [path for source in dict.fromkeys(known) for path in find(source / "diagnostics")]


def _commands(made: Sequence[layouts.Table], again: str) -> str:
    """What fills the tables, and what makes the report of them."""
    runs = dict.fromkeys(table.layout.command for table in made)
    return "\n".join([*runs, again])
