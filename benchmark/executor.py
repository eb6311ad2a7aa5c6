"""Runs jobs in worker processes: one process per job, so a hard death costs one job.

Workers are forked from a server that has loaded torch once; nothing of a job survives it. Results
are in the store, never in a message: news only says that a job ended and how.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Literal, Protocol

from benchmark.errors import BadCheckpoint
from benchmark.jobs import Job

PRELOAD = ["benchmark.worker", "open_clip.model", "open_clip.tokenizer"]


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


@dataclass
class _Running:
    job: Job
    process: ForkServerProcess
    pipe: Connection
    last: tuple[Any, ...] | None = None


class Executor:
    """Local worker processes.

    Args:
        root: the store's folder.
        processes: how many jobs run at once; None: one per core.
        options: threads, device and provenance of every worker.
    """

    def __init__(self, root: Path, processes: int | None, options: Mapping[str, Any]) -> None:
        self.root = root
        self.processes = processes or len(os.sched_getaffinity(0))
        self.options = dict(options)
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(PRELOAD)

    def run(self, jobs: Mapping[str, Job], display: Display) -> Iterator[Outcome]:
        """Run jobs in an order that respects `after`; yields each one's outcome as it ends.

        Raises BadCheckpoint, and stops everything, when a job finds the user's weights unusable.
        """
        waiting, running = dict(jobs), {}
        try:
            while waiting or running:
                self._fill(waiting, running, display)
                for outcome in self._news(running, display):
                    yield from self._settle(outcome, waiting, display)
        finally:
            for one in running.values():
                one.process.kill()
                one.process.join()

    def _fill(
        self, waiting: dict[str, Job], running: dict[str, _Running], display: Display
    ) -> None:
        """Start ready jobs: those of early cells first, and of these the long ones."""
        open_keys = waiting.keys() | running.keys()
        ready = [job for job in waiting.values() if not job.after & open_keys]
        ready.sort(key=lambda job: (job.cell, -job.cost))
        for job in ready[: self.processes - len(running)]:
            del waiting[job.key]
            running[job.key] = self._start(job)
            display.started(job)

    def _start(self, job: Job) -> _Running:
        from benchmark.worker_entry import enter

        here, there = self.server.Pipe()
        log = self.root / "logs" / f"{job.key}.log"
        args = (job.call, job.config, str(self.root), str(log), self.options, there)
        process = self.server.Process(target=enter, args=args, daemon=True)
        process.start()
        there.close()
        return _Running(job, process, here)

    def _news(self, running: dict[str, _Running], display: Display) -> Iterator[Outcome]:
        by_pipe = {one.pipe: one for one in running.values()}
        for pipe in wait(list(by_pipe)):
            one = by_pipe[pipe]  # type: ignore[index]
            try:
                message = one.pipe.recv()
            except (EOFError, OSError):
                one.process.join()
                del running[one.job.key]
                yield _outcome(one)
                continue
            if message[0] == "progress":
                display.progressed(one.job, message[1], message[2])
            elif message[0] == "note":
                display.noted(one.job, message[1])
            else:
                one.last = message

    def _settle(
        self, outcome: Outcome, waiting: dict[str, Job], display: Display
    ) -> Iterator[Outcome]:
        """Report an outcome; jobs that waited for a lost one are lost with it."""
        display.ended(outcome)
        yield outcome
        if outcome.status == "done":
            return
        for job in [job for job in waiting.values() if outcome.job.key in job.after]:
            if waiting.pop(job.key, None) is None:
                continue
            culprit = outcome.culprit or outcome.job.label
            lost = Outcome(job, outcome.status, outcome.reason, culprit)
            yield from self._settle(lost, waiting, display)


def _outcome(one: _Running) -> Outcome:
    if one.last is None:
        code = one.process.exitcode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Outcome(one.job, "failed", f"its process died ({how})")
    if one.last[0] == "bad_input":
        raise BadCheckpoint(one.last[1])
    if one.last[0] == "done":
        return Outcome(one.job, "done")
    return Outcome(one.job, one.last[0], one.last[1])
