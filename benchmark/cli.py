"""`lfpm-bench run` and `lfpm-bench demo`: from words to records to a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark import config, pipeline, tables
from benchmark.cell import Cell, cell_from
from benchmark.display import display
from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.store import Store
from benchmark.tracking.settings import tracker_from

INTERRUPTED = 130


def run(words: Sequence[str]) -> int:
    """Compute the cells of a Hydra command line; 0, or 1 if any cell failed."""
    plan = config.plan(words)
    if plan is None:
        return 0
    cells = [cell_from(one) for one in plan.configs]
    store = Store(plan.runtime["store"])
    if plan.runtime["stage"] == "pretrain":
        return _pretrain(cells[0], store, plan.runtime["launcher"])
    summary = _computed(words, plan, cells, store)
    sys.stdout.write(numbers(summary.records))
    return report(summary, store)


def _computed(
    words: Sequence[str], plan: config.Plan, cells: Sequence[Cell], store: Store
) -> pipeline.Summary:
    """Run the cells, shown by the chosen tracker."""
    tracker = tracker_from(plan.runtime["tracker"])
    with tracker.opened(store, words) as tell:
        return pipeline.run(cells, store, plan.runtime["launcher"], display, tell)


def numbers(found: Sequence[Record]) -> str:
    """One line per row of the records that are done, for people: CA, ASR and its floor."""
    lines = []
    for row in tables.rows(found):
        if row.stats:
            ca, asr, floor = (row.mean(name) for name in ("ca", "asr", "asr_clean_merge"))
            where = "/".join(row.names[name] for name in ("attack", "merge", "defense"))
            where += f" after {row.names['stress']}" if "stress" in row.names else ""
            where += f" ({row.variant})" if row.variant else ""
            lines.append(f"{where}: CA {ca:.1f} %, ASR {asr:.1f} % (clean merge {floor:.1f} %)\n")
    return "".join(lines)


def report(summary: pipeline.Summary, store: Store) -> int:
    """Say on standard error what a run came to; the exit code it deserves."""
    done = sum(record.status == "done" for record in summary.records)
    say(
        f"{done} of {len(summary.records)} cells done, {summary.computed} computed now; "
        f"records: {store.root / 'records'}"
    )
    for record in summary.records:
        if record.status != "done":
            names = record.names
            row = f"{names['attack']}/{names['merge']}/{names['defense']}"
            row += f" after {names['stress']}" if "stress" in names else ""
            row += f" seed {record.seed}"
            say(f"{record.status}: {row}: {record.reason}")
    for label, log in summary.logs.items():
        say(f"log of {label}: {log}")
    return 1 if summary.failed else 0


def _pretrain(cell: Cell, store: Store, launcher: dict[str, object]) -> int:
    """Make the backbone's weights as a stage and say where they are."""
    if cell.backbone.weights is not None:
        raise BenchError(
            f"backbone.weights={cell.backbone.weights} is already there; "
            "add backbone.weights=null to make weights from the seed"
        )
    path = pipeline.pretrain(cell, store, launcher, display)
    say(f"pre-trained weights: {path}")
    return 0


def say(text: str) -> None:
    """One line to standard error."""
    sys.stderr.write(f"{text}\n")


def demo_words(extra: Sequence[str]) -> list[str]:
    """The command line that `demo` stands for."""
    return ["-m", "experiment=demo", *extra]


def demo(extra: Sequence[str], out: Path, adopt: Path | None) -> int:
    """Run the embedded experiment, print its table and how to read it, write md, csv and html.

    Args:
        extra: further Hydra words.
        out: folder for the table and the report.
        adopt: also copy the records into this folder.
    """
    from benchmark.demo import show
    from benchmark.results import keep

    words = demo_words(extra)
    plan = config.plan(words)
    if plan is None:
        return 0
    cells = [cell_from(one) for one in plan.configs]
    store = Store(plan.runtime["store"])
    summary = _computed(words, plan, cells, store)
    show(summary.records, store, out)
    if adopt is not None:
        keep(summary.records, store, adopt)
    return report(summary, store)
