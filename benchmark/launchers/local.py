"""Worker processes on this machine: one process per job, so a hard death costs one job.

Workers are forked from a server that has loaded torch once; nothing of a job survives it. Results
are in the store, never in a message: news only says that a job ended and how.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Annotated, Any, Literal

from pydantic import Field

from benchmark import failures
from benchmark.components import component
from benchmark.errors import BadCheckpoint
from benchmark.jobs import Job
from benchmark.launchers.gpus import gpus
from benchmark.launching import RETRY, Display, Outcome, Schedule, elsewhere, ended, options
from benchmark.store import Store
from benchmark.worker_entry import enter

PRELOAD = ["benchmark.worker", "open_clip.model", "open_clip.tokenizer"]
SERVER_GONE = 255
"""What multiprocessing says of a worker whose fork server died before it; its own code, else."""


@component
class Local:
    """Worker processes on this machine, one per job: a hard death costs one job.

    Args:
        processes: how many jobs run at once; None: one per GPU with device=cuda, else one per core.
            More than there are GPUs share them in turn.
        threads: torch threads per process.
        device: cpu or cuda; with cuda a process sees one GPU.
    """

    processes: Annotated[int, Field(ge=1)] | None
    threads: Annotated[int, Field(ge=1)]
    device: Literal["cpu", "cuda"]

    @property
    def slots(self) -> list[str | None]:
        """The GPU of each process that runs at once; None for one without."""
        if self.device == "cpu":
            return [None] * (self.processes or len(os.sched_getaffinity(0)))
        found = gpus()
        return list(itertools.islice(itertools.cycle(found), self.processes or len(found)))

    @property
    def width(self) -> int:
        """How many jobs run at once."""
        return len(self.slots)

    def __call__(
        self, jobs: Mapping[str, Job], store: Store, display: Display
    ) -> Iterator[Outcome]:
        """See benchmark.launching.Launcher."""
        return Pool(store, self.slots, options(self)).run(jobs, display)


@dataclass
class _Running:
    job: Job
    slot: str | None
    process: ForkServerProcess
    pipe: Connection
    last: tuple[Any, ...] | None = None


class Pool:
    """A bounded number of worker processes.

    Args:
        store: where results go.
        slots: the GPU of each process that runs at once; None for one without.
        options: what `benchmark.worker.perform` is told.
        preload: modules that are imported before the first worker is forked; the `work` of the
            first one is run.
    """

    def __init__(
        self,
        store: Store,
        slots: Sequence[str | None],
        options: Mapping[str, Any],
        preload: Sequence[str] = PRELOAD,
    ) -> None:
        self.store = store
        self.free = list(reversed(slots))
        self.options = dict(options)
        self.preload = preload
        self.running: dict[str, _Running] = {}
        self.before: dict[str, int] = {}
        self.server = multiprocessing.get_context("forkserver")

    def run(self, jobs: Mapping[str, Job], display: Display) -> Iterator[Outcome]:
        """Run jobs in an order that respects `after`; yields each one's outcome as it ends."""
        schedule, self.before = Schedule(jobs), failures.counted(self.store)
        modules = sorted({one for job in jobs.values() for one in _modules(job.config)})
        self.server.set_forkserver_preload([*self.preload, *modules])
        try:
            while len(schedule):
                for one in itertools.chain(self._fill(schedule, display), self._news(display)):
                    for outcome in schedule.end(one):
                        display.ended(outcome)
                        yield outcome
        finally:
            for one in self.running.values():
                one.process.kill()
                one.process.join()

    def _fill(self, schedule: Schedule, display: Display) -> Iterator[Outcome]:
        """Give free slots to jobs; yields jobs that ended elsewhere in the meantime."""
        while self.free and (job := schedule.take()):
            if outcome := ended(job, self.store, self.before):
                yield outcome
            elif elsewhere(job, self.store):
                schedule.postpone(job)
            else:
                self.running[job.key] = self._start(job, self.free.pop())
                display.started(job)

    def _start(self, job: Job, slot: str | None) -> _Running:
        here, there = self.server.Pipe()
        log = str(self.store.log(job.key))
        args = (self.preload[0], slot, there, job, self.store, log, self.options)
        process = self.server.Process(target=enter, args=args, daemon=True)
        process.start()
        there.close()
        return _Running(job, slot, process, here)

    def _news(self, display: Display) -> Iterator[Outcome]:
        """Wait for what workers have to say; yields the jobs whose process is gone."""
        if not self.running:
            time.sleep(RETRY)  # what is left is being computed by another run
        by_pipe = {one.pipe: one for one in self.running.values()}
        for pipe in wait(list(by_pipe), RETRY if self.free else None):
            one = by_pipe[pipe]  # type: ignore[index]
            try:
                kind, *words = one.pipe.recv()
            except (EOFError, OSError):
                one.process.join()
                self.free.append(one.slot)
                del self.running[one.job.key]
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
            reason = f"its process died ({_death(one.process.exitcode or 0)})"
            failures.note(self.store, one.job, reason)
            return Outcome(one.job, "failed", reason)
        return Outcome(one.job, one.last[0], one.last[1])


def _modules(config: Any) -> Iterator[str]:
    """The modules of every component that a config names, so that no worker has to import them."""
    if isinstance(config, Mapping):
        if isinstance(target := config.get("_target_"), str):
            yield target.rpartition(".")[0]
        for value in config.values():
            yield from _modules(value)


def _death(code: int) -> str:
    if code >= 0:
        server = ", or the process that workers are forked from died" if code == SERVER_GONE else ""
        return f"exit code {code}{server}"
    name = signal.Signals(-code).name
    return f"signal {name}" + (": out of memory?" if name == "SIGKILL" else "")
