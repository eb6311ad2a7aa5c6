"""What a W&B run holds, as plain values: of a cell, and of a table. No torch, no wandb."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmark.records import Count, Evaluation, Record
from benchmark.replay import command
from benchmark.store import key_of
from benchmark.tables import Row, Table, render
from benchmark.tables.layout import Column
from benchmark.tables.metrics import BESIDE, costs, measures
from benchmark.tables.table import text
from benchmark.tracking.curves import Curves, Line, lines

TAG = 64
"""Longest tag that W&B takes."""
SPREAD = ("sd", "low", "high")
"""Of a table's number: standard deviation over seeds, and its 95 % interval."""
MODELS = (
    *("model", "task", "target", "ca", "asr", "asr_hits", "asr_total"),
    *("target_rate", "target_recall", "triggered_acc"),
)
"""Columns of a cell's models; task and target are the threat's."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A small table: columns, and rows of strings, numbers or None."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One run.

    Attributes:
        id: of the run; equal for equal cells.
        name: what people read.
        group: the sweep.
        kind: W&B's job type: cell or table.
        tags: to filter by.
        notes: the command that makes it again, and why it is not done.
        config: the resolved cell.
        summary: its numbers, in per cent.
        rows: the history; the place in the list is W&B's step. Empty for a cell that failed: it may
            be tried again, and steps are sent once.
        grids: small tables, by name.
        pages: HTML, by name.
        failed: whether the run is shown as failed.
    """

    id: str
    name: str
    group: str
    kind: str
    tags: tuple[str, ...]
    notes: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    rows: Sequence[Line] = ()
    grids: Mapping[str, Grid] = field(default_factory=dict)
    pages: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False


def cell_entry(record: Record, curves: Curves, group: str | None) -> Entry:
    """The run of one record.

    Args:
        record: of any status; only one that is done has numbers.
        curves: what its stages measured on the way.
        group: of the run; None: the suite.
    """
    names, done = dict(record.names), record.status == "done" and record.main is not None
    said = [command(record), None if done else f"{record.status}: {record.reason}"]
    about = {"names": names, "needs": dict(record.needs), "key": record.key}
    made = {"parents": dict(record.parents), "provenance": dict(record.provenance)}
    status = {"status": record.status, **({} if done else {"reason": record.reason})}
    return Entry(
        id=record.key,
        name=title(record),
        group=group or names["suite"],
        kind="cell",
        tags=tuple(value[:TAG] for value in dict.fromkeys((*names.values(), record.status))),
        notes="\n".join(line for line in said if line),
        config={**record.config, **about, **made},
        summary=status | (_numbers(record) if done else {}),
        rows=[] if record.status == "failed" else lines(record, curves),
        grids=_grids(record) if done else {},
        failed=record.status == "failed",
    )


def title(record: Record) -> str:
    """What people read: attack/merge/defence and the seed."""
    row = "/".join(record.names[part] for part in ("attack", "merge", "defense"))
    after = f" after {record.names['stress']}" if "stress" in record.names else ""
    return f"{row}{after} seed {record.seed}"


def _numbers(record: Record) -> dict[str, float]:
    """Every metric with the ends of its 95 % interval, CA by task, and costs."""
    assert record.main is not None
    out: dict[str, float | None] = {}
    for name, measure in measures(record).items():
        if measure is not None:
            out |= {name: measure.value, f"{name}_low": measure.low, f"{name}_high": measure.high}
    out |= {f"ca/{task}": _rate(count) for task, count in record.main.clean.items()}
    out |= {f"cost/{name}": value for name, value in costs(record).items()}
    return {name: value for name, value in out.items() if value is not None}


def _grids(record: Record) -> dict[str, Grid]:
    """numbers: metrics with intervals. models: CA, ASR per model and threat. tasks: hits."""
    assert record.main is not None
    metrics = [
        [name, one.value, one.low, one.high]
        for name, one in measures(record).items()
        if one is not None
    ]
    models = {"this cell": record.main, **record.controls}
    return {
        "numbers": Grid(("metric", "value", "low", "high"), metrics),
        "models": Grid(MODELS, [row for name, one in models.items() for row in _model(name, one)]),
        "tasks": Grid(
            ("model", "task", "hits", "total", "accuracy"),
            [
                [name, task, count.hits, count.total, _rate(count)]
                for name, one in models.items()
                for task, count in one.clean.items()
            ],
        ),
    }


def _model(name: str, found: Evaluation) -> Iterator[list[Any]]:
    """A row per threat."""
    rates = [rate for count in found.clean.values() if (rate := _rate(count)) is not None]
    ca = sum(rates) / len(rates) if rates else None
    for threat in found.threats:
        hits = [_rate(threat.asr), threat.asr.hits, threat.asr.total]
        rest = [_rate(threat.target_rate), _rate(threat.target_recall), _rate(threat.triggered_acc)]
        yield [name, threat.task, threat.target, ca, *hits, *rest]


def _rate(count: Count) -> float | None:
    """Per cent; nothing has no rate."""
    return 100 * count.rate if count.total else None


def table_entry(table: Table, words: Sequence[str], group: str | None) -> Entry:
    """The run of a sweep's table.

    Args:
        table: as `lfpm-bench tables` makes it.
        words: which cells it is of, beside its experiment's; they are part of the run's id.
        group: of the run; None: the table's name.
    """
    states = [row.status for row in table.rows]
    return Entry(
        id=key_of("wandb table", 1, {"name": table.name, "words": sorted(words)}),
        name=" ".join(["table", table.name, *words]),
        group=group or table.name,
        kind="table",
        tags=("table", table.name[:TAG]),
        notes=table.layout.command,
        config={"table": table.name, "words": list(words), "title": table.layout.title},
        summary={"rows": len(states), "rows_done": states.count("done")},
        grids={"table": _grid(table)},
        pages={"page": render(table, "html")},
    )


def _grid(table: Table) -> Grid:
    """The table's columns as numbers, so that W&B sorts them; a spread has columns of its own."""
    columns: list[tuple[str, Callable[[Row], Any]]] = []
    for one in table.columns:
        columns.append((one.title, partial(_value, one)))
        if one.spread:
            columns += [(f"{one.title} {part}", partial(_part, one, part)) for part in SPREAD]
    rows = [[value(row) for _, value in columns] for row in table.rows]
    return Grid(tuple(title for title, _ in columns), rows)


def _value(column: Column, row: Row) -> Any:
    if not column.numeric:
        return text(row, column)
    if column.key in BESIDE:
        return row.costs.get(column.key)
    found = column.number(row)
    if found is None and (shown := text(row, column)).isdecimal():
        return float(shown)  # a count, of seeds or settings
    return found


def _part(column: Column, part: str, row: Row) -> float | None:
    stat = row.stats.get(column.key)
    return None if stat is None else getattr(stat, part)
