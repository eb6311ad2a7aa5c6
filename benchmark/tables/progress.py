"""What a sweep has done and what it has not: planned cells against records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmark.records import Record
from benchmark.states import State, told

STATES = ("done", "missing", "failed", "skipped", "not_implanted", "running", "stale")
UNSAID = ("key", "status", "reason", "log", "age", "attempts", "task", "told")


def status(
    planned: Sequence[tuple[str, Mapping[str, Any]]],
    records: Iterable[Record],
    states: Mapping[str, State] | None = None,
) -> dict[str, Any]:
    """Counts per state, and every cell with its state and reason, as plain JSON.

    Args:
        planned: (key, names and seed) of every cell that ought to be there.
        records: of any cells; those not planned are left out.
        states: key -> what is known of cells that are missing or failed; None: nothing more.
    """
    found = {record.key: record for record in records}
    cells = []
    for key, names in planned:
        record = found.get(key)
        state = (states or {}).get(key) or _plain(record)
        more = {**asdict(state), "told": told(state)}
        cells.append({"key": key, **names, **more})
    counts = {state: sum(cell["status"] == state for cell in cells) for state in STATES}
    return {"planned": len(cells), "counts": counts, "cells": cells}


def status_text(report: Mapping[str, Any]) -> str:
    """The report of `status` for people: the counts, then whatever is not done, by state."""
    counts = ", ".join(f"{count} {_words(state)}" for state, count in report["counts"].items())
    lines = [f"{report['planned']} cells: {counts}"]
    for state in STATES[1:]:
        those = [cell for cell in report["cells"] if cell["status"] == state]
        if those:
            lines += ["", f"{_words(state)} ({len(those)}):"]
            lines += [f"  {_line(cell)}" for cell in those]
    return "\n".join(lines) + "\n"


def _plain(record: Record | None) -> State:
    return State("missing") if record is None else State(record.status, record.reason)


def _words(state: str) -> str:
    return state.replace("_", " ")


def _line(cell: Mapping[str, Any]) -> str:
    names = {key: cell[key] for key in cell if key not in UNSAID}
    said = " ".join(f"{name}={value}" for name, value in names.items())
    return f"{said}: {cell['told']}" if cell["told"] else said
