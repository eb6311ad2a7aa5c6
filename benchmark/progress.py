"""`lfpm-bench status` and `failures`: how far a sweep is, and what went wrong on the way."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmark import config, plans, tables
from benchmark.cell import Cell, cell_from
from benchmark.components import options
from benchmark.failures import Failure, ledger
from benchmark.jobs import job_keys
from benchmark.parser import Parser
from benchmark.results import names_of, planned, present
from benchmark.states import states
from benchmark.store import Store


def status(words: Sequence[str]) -> int:
    """Print how many of a sweep's cells are done, and what became of the others; the exit code."""
    parser = Parser("lfpm-bench status", description="How far a sweep is.")
    parser.add_argument("experiment", help="its name, or the ID of a plan (see run --help)")
    parser.add_argument("words", nargs="*", help="the Hydra words it was run with, if any")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    form.add_argument(
        "--watch",
        action="store_true",
        help="again and again until every cell has ended; in a pipe a line when counts change",
    )
    args = parser.parse_args(words)
    cells, store = _asked(args.experiment, args.words)
    if args.watch:
        from benchmark.watching import watch

        watch(lambda: _progress(cells, store), tables.status_text)
        return 0
    report = _progress(cells, store)
    text = json.dumps(report, indent=1) if args.json else tables.status_text(report).rstrip("\n")
    sys.stdout.write(text + "\n")
    return 0


def failures(words: Sequence[str]) -> int:
    """Print the ledger of failures; the exit code."""
    parser = Parser(
        "lfpm-bench failures",
        description="Every attempt that failed, oldest first, also where a later one succeeded.",
    )
    parser.add_argument(
        "words", nargs="*", help="an experiment or the ID of a plan, and its Hydra words; or all"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(words)
    found = _failed(args.words)
    lines = [_line(one) for one in found] or ["no failures"]
    text = json.dumps([asdict(one) for one in found], indent=1) if args.json else "\n".join(lines)
    sys.stdout.write(text + "\n")
    return 0


def _failed(words: Sequence[str]) -> list[Failure]:
    """Of the jobs of an experiment (or a plan), if one is named; or all."""
    if not words or "=" in words[0]:
        return ledger(Store(config.store_of(words)))
    cells, store = _asked(words[0], words[1:])
    return ledger(store, {key for cell in cells for key in job_keys(cell)})


def _line(failure: Failure) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(failure.when))
    return f"{when} {failure.host} {failure.label}: {failure.reason} (log {failure.log})"


def _asked(name: str, words: Sequence[str]) -> tuple[list[Cell], Store]:
    """The cells of an experiment, or of a frozen plan, by the beginning of its id."""
    root = config.store_of(words)
    if name in options("experiment") or not plans.named(root, name):
        return planned(name, words)
    return [cell_from(one) for one in plans.find(root, name).configs], Store(root)


def _progress(cells: Sequence[Cell], store: Store) -> dict[str, Any]:
    found = present(cells, store)
    known = states(cells, {record.key: record for record in found}, store)
    return tables.status([(cell.key, names_of(cell)) for cell in cells], found, known)
