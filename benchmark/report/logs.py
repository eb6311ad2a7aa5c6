"""The ends of the logs that a cell's jobs left in the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.errors import BenchError
from benchmark.jobs import Graph, plan_cell
from benchmark.recorded import record_cell
from benchmark.records import Record
from benchmark.store import Store

LINES = 40
"""So many of a log's last lines are shown."""
REACH = 20_000
"""Bytes of a log's end that are read at most."""


def tails(record: Record, store: Store) -> list[tuple[str, str]]:
    """(key of the job, end of its log) of every job of a record that wrote anything.

    Jobs write warnings and tracebacks; most write nothing.
    """
    found = []
    for key in dict.fromkeys(_keys(record, store)):
        path = store.root / "logs" / f"{key}.log"
        if path.is_file() and (text := _tail(path)):
            found.append((key, text))
    return found


def _keys(record: Record, store: Store) -> Iterator[str]:
    """Addresses of the stages that the record names and, if it failed, of those it still lacks."""
    for value in record.parents.values():
        every = value.values() if isinstance(value, dict) else [value]
        yield from (str(one).partition("/")[0] for one in every)
    yield from _evaluations(record)
    if record.status == "failed":
        graph = Graph(store)
        try:
            plan_cell(graph, record_cell(record))
        except BenchError:  # of another version of the suite
            return
        yield from graph.jobs


def _evaluations(record: Record) -> Iterator[str]:
    points: list[Any] = [point.evaluation for point in record.curve]
    for one in (record.main, *record.controls.values(), *points):
        if one is not None:
            yield one.key


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - REACH))
        text = file.read().decode(errors="replace")
    return "\n".join(text.rstrip().splitlines()[-LINES:])
