"""What a launcher is: it is handed jobs and sees to it that their results come into the store.

The contract, for whoever writes another one (one class, one YAML in conf/launcher):

- A launcher is a component: frozen values, `threads` and `device` among them, every value in its
  YAML. Calling it with jobs yields one Outcome for each, as it ends; the caller writes records.
- The store is the truth. A job is done when its artifact is there, whatever a process, a message or
  a scheduler says of it, and it is not computed when its artifact appears in the meantime.
- Jobs start in the order of a Schedule: none before the jobs in `after`. When one is lost, so are
  those that wait for it, with its reason; every other job goes on.
- A job is computed by `benchmark.worker.perform`, in whatever process on whatever machine that sees
  the store's folder. It holds the claim on the job's key meanwhile, and notes in the ledger of
  failures what was raised; of a process that died without a word the launcher does.
- Several runs may share a store. A job that another one has claimed is put off (`elsewhere`,
  `Schedule.postpone`), and taken over if its holder dies.
- BadCheckpoint is raised, and stops everything, when a job finds the user's weights unusable.
- On Ctrl-C or any other end of the generator nothing that it started is left running.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from benchmark import claims, failures
from benchmark.components import build
from benchmark.jobs import Job
from benchmark.store import Store

RETRY = 0.5  # seconds between two looks at a job that another run is computing


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `culprit` is the label of the job whose end this was."""

    job: Job
    status: Literal["done", "failed", "skipped"]
    reason: str | None = None
    culprit: str | None = None


class Display(Protocol):
    """Who is told what is going on."""

    def started(self, job: Job) -> None:
        """A job has been given a process."""

    def progressed(self, job: Job, done: int, total: int) -> None:
        """Part of a job is done."""

    def noted(self, job: Job, text: str) -> None:
        """A warning."""

    def ended(self, outcome: Outcome) -> None:
        """A job ended, or will never start."""


class Launcher(Protocol):
    """Where and how jobs are computed.

    Attributes:
        threads: torch threads per process.
        device: cpu or cuda.
        width: how many jobs run at once.
    """

    @property
    def threads(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def width(self) -> int: ...  # noqa: D102

    def __call__(
        self, jobs: Mapping[str, Job], store: Store, display: Display
    ) -> Iterator[Outcome]:
        """Run jobs in an order that respects `after`; yields each one's outcome as it ends.

        Args:
            jobs: by key; a job's `after` may name jobs that are not among them, which are done.
            store: where results go; its `made` is written beside each.
            display: is told when jobs start, move on and end.
        """
        ...


def launcher_from(config: Mapping[str, Any]) -> Launcher:
    """Build the chosen option of conf/launcher; one sentence if a value is not valid."""
    return build(config, "launcher")


def options(launcher: Launcher) -> dict[str, Any]:
    """What a launcher tells `benchmark.worker.perform` of itself, as plain JSON."""
    return {"threads": launcher.threads, "device": launcher.device}


def ended(job: Job, store: Store, before: Mapping[str, int]) -> Outcome | None:
    """How a job ended without us: its result is there, or another run has failed to make it.

    That a Slurm task ended without a result says nothing of the job: it is tried here.

    Args:
        job: one that may start.
        store: where its result would be.
        before: `failures.counted` when this run began: those are tried again.
    """
    if store.has(job.stage, job.key):
        return Outcome(job, "done")
    later = failures.attempts(store, job.key)[before.get(job.key, 0) :]
    seen = [one.reason for one in later if one.seen]
    return Outcome(job, "failed", seen[-1]) if seen else None


def elsewhere(job: Job, store: Store) -> bool:
    """Whether another process is computing this job."""
    holder = claims.holder(store.claims, job.key)
    return holder is not None and holder.alive


class Schedule:
    """The jobs that have not ended, and which of them may start; `postponed` holds jobs put off."""

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self.postponed: list[tuple[float, str]] = []
        self._open = dict(jobs)
        self._waits = {key: set(job.after & jobs.keys()) for key, job in jobs.items()}
        self._followers: dict[str, list[str]] = {key: [] for key in jobs}
        for key, before in self._waits.items():
            for one in before:
                self._followers[one].append(key)
        self._ready: list[tuple[int, float, str]] = []
        for key, before in self._waits.items():
            if not before:
                self.give_back(jobs[key])

    def __len__(self) -> int:
        """How many jobs have not ended."""
        return len(self._open)

    def take(self) -> Job | None:
        """A job that may start: those of early cells first, and of these the long ones."""
        while self.postponed and self.postponed[0][0] <= time.monotonic():
            self.give_back(self._open[heapq.heappop(self.postponed)[1]])
        return self._open[heapq.heappop(self._ready)[2]] if self._ready else None

    def give_back(self, job: Job) -> None:
        """Undo `take`: the job may start later."""
        heapq.heappush(self._ready, (job.cell, -job.cost, job.key))

    def postpone(self, job: Job) -> None:
        """Give a job back for later, when it may have been computed elsewhere."""
        heapq.heappush(self.postponed, (time.monotonic() + RETRY, job.key))

    def end(self, outcome: Outcome) -> Iterator[Outcome]:
        """Close a job that was taken; yields its outcome and those of jobs lost with it."""
        job = outcome.job
        del self._open[job.key]
        yield outcome
        for key in self._followers[job.key]:
            if key not in self._open:
                continue
            if outcome.status != "done":
                culprit = outcome.culprit or job.label
                lost = Outcome(self._open[key], outcome.status, outcome.reason, culprit)
                yield from self.end(lost)
                continue
            self._waits[key].discard(job.key)
            if not self._waits[key]:
                self.give_back(self._open[key])
