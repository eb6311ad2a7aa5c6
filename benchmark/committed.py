"""The tables under results/, and the demo's page, made again from the records beside them."""

from __future__ import annotations

from pathlib import Path

from benchmark import results, tables
from benchmark.components import options
from benchmark.store import write_atomic

RESULTS = Path(__file__).parent.parent / "results"
PAGE = RESULTS / "demo" / "report.html"


def names() -> list[str]:
    """The tables that have a Markdown file under results/."""
    return [name for name in options("table") if (RESULTS / name / f"{name}.md").exists()]


def folders(name: str) -> list[Path]:
    """Where a table's records are: under its own name and those of its experiments."""
    return tables.below(RESULTS, name)


def made(name: str) -> tables.Table:
    """A table from all the committed records that it asks for."""
    return results.table(name, [], [RESULTS], partial=False)


def page() -> str:
    """The demo's page; without pictures of its triggers, since these are in a store alone."""
    from benchmark.demo import page_of
    from benchmark.report import render_report

    records, hits = tables.gather(folders("demo"))
    return render_report(page_of(tables.make("demo", records, hits=hits), records))


def regenerate() -> list[Path]:
    """Write PAGE, and every table of `names` in the forms that it is committed in; the files."""
    written = [PAGE]
    write_atomic(PAGE, page().encode())
    for name in names():
        table = made(name)
        for path in sorted((RESULTS / name).glob(f"{name}.*")):
            write_atomic(path, tables.render(table, path.suffix[1:]).encode())
            written.append(path)
    return written
