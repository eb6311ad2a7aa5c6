"""Which jobs one task of an array takes: first what several cells need, then each cell's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from benchmark.jobs import Job

LIMIT = 1000
"""Tasks in one array: what Slurm allows unless its administrator says otherwise (MaxArraySize)."""


@dataclass(frozen=True)
class Shares:
    """Jobs in the order in which they may be computed.

    Attributes:
        common: jobs that several cells wait for; the tasks of a first array do them together.
        own: per task of a second array, the jobs that one cell (or a few) alone waits for.
    """

    common: tuple[Job, ...]
    own: tuple[tuple[Job, ...], ...]


def shares(jobs: Mapping[str, Job], cells_per_task: int) -> Shares:
    """Split jobs into shares.

    What waits for common jobs may be common or one cell's own, never the other way round. A lone
    cell has no common jobs to be split off: then all of its jobs are shared by the first array.

    Args:
        jobs: by key, each after those it waits for.
        cells_per_task: how many cells' own jobs one task takes; more where a sweep would be longer
            than an array may be.
    """
    cells = _cells(jobs)
    own: dict[int, list[Job]] = {}
    for key, job in jobs.items():
        if (cell := cells[key]) is not None:
            own.setdefault(cell, []).append(job)
    if len(own) < 2:
        return Shares(tuple(jobs.values()), ())
    several = max(cells_per_task, ceil(len(own) / LIMIT))
    lists = list(own.values())
    tasks = [lists[start : start + several] for start in range(0, len(lists), several)]
    common = tuple(job for key, job in jobs.items() if cells[key] is None)
    return Shares(common, tuple(tuple(job for cell in task for job in cell) for task in tasks))


def _cells(jobs: Mapping[str, Job]) -> dict[str, int | None]:
    """Per job the one cell that it and all that waits for it belong to; None: several."""
    cells: dict[str, int | None] = {key: job.cell for key, job in jobs.items()}
    for key in reversed(list(jobs)):
        for before in jobs[key].after & jobs.keys():
            if cells[key] is None or cells[before] != cells[key]:
                cells[before] = None
    return cells


def missing_from(share: Iterable[Job], jobs: Mapping[str, Job]) -> dict[str, Job]:
    """The jobs that a share waits for and does not hold itself."""
    share = list(share)
    held = {job.key for job in share}
    return {key: jobs[key] for job in share for key in job.after & jobs.keys() if key not in held}
