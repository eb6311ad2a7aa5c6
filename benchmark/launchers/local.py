"""Worker processes on this machine: one process per job, so a hard death costs one job.

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
from typing import Annotated, Any, Literal

from pydantic import Field

from benchmark.components import component
from benchmark.errors import BadCheckpoint
from benchmark.jobs import Job
from benchmark.launching import Display, Outcome, Schedule, log_path, options
from benchmark.store import Store

PRELOAD = ["benchmark.worker", "open_clip.model", "open_clip.tokenizer"]


@component
class Local:
    """Worker processes on this machine, one per job: a hard death costs one job.

    Args:
        processes: how many jobs run at once; None: one per core.
        threads: torch threads per process.
        device: cpu or cuda.
    """

    processes: Annotated[int, Field(ge=1)] | None
    threads: Annotated[int, Field(ge=1)]
    device: Literal["cpu", "cuda"]

    def __call__(
        self, jobs: Mapping[str, Job], store: Store, display: Display
    ) -> Iterator[Outcome]:
        """See benchmark.launching.Launcher."""
        return Pool(store, self.processes, options(self)).run(jobs, display)


@dataclass
class _Running:
    job: Job
    process: ForkServerProcess
    pipe: Connection
    last: tuple[Any, ...] | None = None


class Pool:
    """A bounded number of worker processes.

    Args:
        store: where results go.
        processes: how many jobs run at once; None: one per core.
        options: what `benchmark.worker.perform` is told.
    """

    def __init__(self, store: Store, processes: int | None, options: Mapping[str, Any]) -> None:
        self.store = store
        self.processes = processes or len(os.sched_getaffinity(0))
        self.options = dict(options)
        self.server = multiprocessing.get_context("forkserver")
        self.server.set_forkserver_preload(PRELOAD)

    def run(self, jobs: Mapping[str, Job], display: Display) -> Iterator[Outcome]:
        """Run jobs in an order that respects `after`; yields each one's outcome as it ends."""
        schedule = Schedule(jobs)
        running: dict[str, _Running] = {}
        try:
            while len(schedule):
                self._fill(schedule, running, display)
                for ended in self._news(running, display):
                    for outcome in schedule.end(ended):
                        display.ended(outcome)
                        yield outcome
        finally:
            for one in running.values():
                one.process.kill()
                one.process.join()

    def _fill(self, schedule: Schedule, running: dict[str, _Running], display: Display) -> None:
        while len(running) < self.processes and (job := schedule.take()):
            running[job.key] = self._start(job)
            display.started(job)

    def _start(self, job: Job) -> _Running:
        from benchmark.worker_entry import enter

        here, there = self.server.Pipe()
        args = (job, self.store, str(log_path(self.store, job)), self.options, there)
        process = self.server.Process(target=enter, args=args, daemon=True)
        process.start()
        there.close()
        return _Running(job, process, here)

    def _news(self, running: dict[str, _Running], display: Display) -> Iterator[Outcome]:
        by_pipe = {one.pipe: one for one in running.values()}
        for pipe in wait(list(by_pipe)):
            one = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, *words = one.pipe.recv()
            except (EOFError, OSError):
                one.process.join()
                del running[one.job.key]
                yield self._outcome(one)
                continue
            if kind == "ended":
                one.last = tuple(words)
            else:
                getattr(display, kind)(one.job, *words)

    def _outcome(self, one: _Running) -> Outcome:
        """How a job whose process is gone ended: done if its result is there."""
        if one.last is not None and one.last[0] == "bad_input":
            raise BadCheckpoint(one.last[1])
        if self.store.has(one.job.stage, one.job.key):
            return Outcome(one.job, "done")
        if one.last is None:
            code = one.process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return Outcome(one.job, "failed", f"its process died ({how})")
        return Outcome(one.job, one.last[0], one.last[1])
