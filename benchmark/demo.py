"""What `lfpm-bench demo` shows and writes once its records are there."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark import tables
from benchmark.diagnostics.findings import find
from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.report import Page, Picture, triggers, write_report
from benchmark.store import Store

FORMS = ("md", "csv", "json")


def show(records: Sequence[Record], store: Store, out: Path) -> None:
    """Print the table and three lines on how to read it; write md, csv, json and an HTML page.

    Args:
        records: of what was run.
        store: where the triggers are.
        out: the folder to write to.
    """
    table = tables.make("demo", records, hits=tables.find_hits(store.root, records))
    sys.stdout.write(tables.render(table, "md") + "\n")
    sys.stdout.write("\n".join(tables.reading(table.rows)) + "\n")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tables.write(table, out, FORMS)
        seen = find(out / "diagnostics")
        page = page_of(table, records, triggers(records, store), seen)
        path = write_report(out / "report.html", page)
    except OSError as error:
        raise BenchError(
            f"--out={out} cannot be written ({error.strerror}); give another folder"
        ) from error
    sys.stderr.write(f"report: {path.resolve()}\n")


def page_of(
    table: tables.Table,
    records: Sequence[Record],
    pictures: Sequence[Picture] = (),
    diagnoses: Sequence[Path] = (),
) -> Page:
    """The demo's page: its table, what that was made of, and what is seen of its triggers."""
    return Page([table], records, pictures, provenance(records), diagnoses=diagnoses)


def provenance(records: Sequence[Record]) -> Mapping[str, Any]:
    """The provenance of the records' evaluations that all of them share."""
    made = [record.provenance for record in records if record.provenance]
    if not made:
        return {}
    return {
        name: value for name, value in made[0].items() if all(m.get(name) == value for m in made)
    }
