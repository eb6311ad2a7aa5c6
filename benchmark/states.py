"""How far cells are: done, running, missing, failed, stale, and why, since when, in which log.

A cell is running when a process that is alive has claimed one of its stages; a stage that several
cells wait for counts for the first of them. It is stale when that process is gone and nobody has
taken over: the same command goes on with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmark import claims, failures
from benchmark.cell import Cell
from benchmark.claims import Holder
from benchmark.clock import duration
from benchmark.jobs import Graph, plan_cell
from benchmark.records import Record
from benchmark.slurm.whereabouts import whereabouts
from benchmark.store import Store


@dataclass(frozen=True)
class State:
    """What is known of a cell that has no result.

    Attributes:
        status: running, missing, failed or stale.
        reason: one sentence; None for missing.
        log: file of the warnings and tracebacks of the job in question.
        age: seconds since it began (running, stale) or failed.
        attempts: how often that job has failed.
        task: the Slurm task that has the cell, with its state and its log.
    """

    status: str
    reason: str | None = None
    log: str | None = None
    age: float | None = None
    attempts: int = 0
    task: str | None = None


def states(
    cells: Sequence[Cell], found: Mapping[str, Record], store: Store, now: float | None = None
) -> dict[str, State]:
    """Key -> state, of the cells that have no record or one of a failure.

    Args:
        cells: any.
        found: key -> record of those that have one.
        store: where they are computed.
        now: seconds since 1970; None: the time.
    """
    now = time.time() if now is None else now
    graph, needed, numbers = Graph(store), {}, {}
    for cell in cells:
        if cell.key not in found or found[cell.key].status == "failed":
            needed[cell.key] = plan_cell(graph, cell)
            numbers[graph.cells] = cell.key
    held: dict[str, Holder] = {}
    for one in claims.holders(store.claims):
        if (job := graph.jobs.get(one.key)) and not _alive(held.get(numbers[job.cell])):
            held[numbers[job.cell]] = one
    known = {path.stem for path in (store.root / "failures").glob("*.jsonl")}
    tasks = whereabouts([cell for cell in cells if cell.key not in found], store)
    made = {
        key: _state(found.get(key), held.get(key), _lost(graph, keys, known, store), store, now)
        for key, keys in needed.items()
    }
    return {key: replace(state, task=tasks.get(key)) for key, state in made.items()}


def _alive(holder: Holder | None) -> bool:
    return holder is not None and holder.alive


def _state(
    record: Record | None,
    holder: Holder | None,
    lost: Sequence[failures.Failure],
    store: Store,
    now: float,
) -> State:
    if holder is not None and (holder.alive or record is None):
        where = f"process {holder.pid} on {holder.host}"
        how = where if holder.alive else f"{where} is gone; run it again to go on"
        status, log = "running" if holder.alive else "stale", str(store.log(holder.key))
        return State(status, f"{holder.label}, {how}", log, now - holder.since, len(lost))
    if record is None:
        return State("missing")
    if not lost:
        return State("failed", record.reason)
    last = lost[-1]
    return State("failed", record.reason, last.log, now - last.when, len(lost))


def _lost(
    graph: Graph, needed: frozenset[str], known: set[str], store: Store
) -> list[failures.Failure]:
    """The failed attempts at the jobs that a cell still needs, of the one that failed last."""
    keys = known & set(_all_before(graph, needed)) if known else set()
    last = failures.ledger(store, keys)[-1:]
    return failures.attempts(store, last[0].key) if last else []


def _all_before(graph: Graph, keys: frozenset[str]) -> Iterator[str]:
    """The jobs of these keys, and all they wait for."""
    seen, left = set(keys), list(keys)
    while left:
        if (job := graph.jobs.get(left.pop())) is not None:
            yield job.key
            left += job.after - seen
            seen |= job.after


def told(state: State) -> str:
    """A state in words, to stand behind a cell's name."""
    parts = [state.reason] if state.reason else []
    if state.age is not None:
        word = "ago" if state.status == "failed" else "so far"
        parts.append(f"{duration(state.age)} {word}")
    parts += [f"{state.attempts} failed attempts"] if state.attempts > 1 else []
    parts += [state.task] if state.task else []
    parts += [f"log {state.log}"] if state.log and state.status != "running" else []
    return "; ".join(parts)
