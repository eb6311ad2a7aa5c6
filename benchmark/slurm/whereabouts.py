"""Which Slurm task has a cell, for `lfpm-bench status`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark.cell import Cell
from benchmark.jobs import Graph, plan_cell
from benchmark.slurm import queue, submissions
from benchmark.slurm.submissions import Submission
from benchmark.store import Store


def whereabouts(cells: Sequence[Cell], store: Store) -> dict[str, str]:
    """Key -> the task that is at a cell, its state and its log, of the cells that one is at.

    A job that several cells wait for counts for the first of them. Where `squeue` does not answer
    there is nothing to tell.

    Args:
        cells: those without a record.
        store: where they are computed.
    """
    known = submissions.read_all(store)
    said = queue.states() if known and cells else None
    if not said:
        return {}
    graph, keys = Graph(store), {}
    for cell in cells:
        plan_cell(graph, cell)
        keys[graph.cells] = cell.key
    tasks = _tasks(known, said)
    found: dict[str, tuple[bool, str]] = {}
    for job in graph.jobs.values():
        cell = keys[job.cell]
        if job.key in tasks and not found.get(cell, (False,))[0]:
            running, told = tasks[job.key]
            if running or cell not in found:
                found[cell] = running, told
    return {key: told for key, (_, told) in found.items()}


def _tasks(known: Sequence[Submission], said: Mapping[str, str]) -> dict[str, tuple[bool, str]]:
    """Job key -> whether its task runs, and words for it; a running task before a queued one."""
    found: dict[str, tuple[bool, str]] = {}
    for one in known:
        for task, keys in one.tasks.items():
            state = said.get(task, "")
            if queue.lives(state):
                running = state.startswith("RUNNING")
                told = f"Slurm task {task} {state}; log {one.log(task)}"
                found |= {key: (running, told) for key in keys if running or key not in found}
    return found
