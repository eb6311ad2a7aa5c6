"""What one task of an array does on its node: its share of the jobs, through the local launcher."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver, set_forkserver_preload
from pathlib import Path
from typing import Any

from benchmark.errors import BadCheckpoint
from benchmark.jobs import Job
from benchmark.launchers.local import PRELOAD
from benchmark.launching import Launcher, Outcome
from benchmark.slurm import submissions
from benchmark.slurm.submitting import submitit
from benchmark.store import Store, write_atomic

WARNINGS = (signal.SIGUSR2, signal.SIGTERM)
"""What Slurm sends to every process of a task before it kills them: time is up; make room."""


@dataclass(frozen=True)
class Task:
    """A share of the jobs, self-contained: the configs it holds are those of the day it was made.

    Attributes:
        jobs: its share, each after those it waits for.
        needs: jobs of other tasks that these wait for.
        store: where results go.
        folder: of its submission.
        launcher: computes on the node.
    """

    jobs: tuple[Job, ...]
    needs: Mapping[str, Job]
    store: Store
    folder: Path
    launcher: Launcher

    def __call__(self) -> None:
        """Compute what is missing; results go to the store, losses to the submission's folder."""
        too_often = submitit().core.utils.UncompletedJobError
        try:
            for outcome in self._outcomes():
                if outcome.status != "done":
                    self._note(outcome)
        except BadCheckpoint as error:
            for job in self.jobs:
                submissions.note_lost(self.folder, job.key, "bad_input", str(error), None)
        except too_often:
            task = submitit().JobEnvironment().job_id
            why = "it ran out of time too often; raise launcher.time_min or launcher.timeouts"
            write_atomic(self.folder / f"{task}.reason", why.encode())
            raise

    def checkpoint(self) -> Any:
        """What is to run when the task was requeued: the same; the store knows what is done."""
        return submitit().helpers.DelayedSubmission(self)

    def _outcomes(self) -> Iterator[Outcome]:
        missing = [job for job in self.jobs if not self.store.has(job.stage, job.key)]
        for job in missing:  # of an earlier attempt
            (self.folder / "lost" / f"{job.key}.json").unlink(missing_ok=True)
        blocked = dict(self._blocked(missing))
        yield from blocked.values()
        todo = {job.key: job for job in missing if job.key not in blocked}
        with _deaf_children(), _patient():
            yield from self.launcher(todo, self.store, _Log())

    def _blocked(self, jobs: list[Job]) -> Iterator[tuple[str, Outcome]]:
        """Jobs that cannot be computed since one they wait for, here or elsewhere, was not."""
        notes = submissions.lost(self.folder)
        gone: dict[str, tuple[str, Any, str]] = {}
        for key, job in self.needs.items():
            if not self.store.has(job.stage, key):
                note = notes.get(key, {"status": "failed", "reason": "no task computed it"})
                gone[key] = (note["status"], note["reason"], note.get("culprit") or job.label)
        for job in jobs:
            if causes := [gone[key] for key in sorted(job.after) if key in gone]:
                status, reason, culprit = gone[job.key] = causes[0]
                yield job.key, Outcome(job, status, reason, culprit)  # type: ignore[arg-type]

    def _note(self, outcome: Outcome) -> None:
        key, status = outcome.job.key, outcome.status
        submissions.note_lost(self.folder, key, status, outcome.reason, outcome.culprit)


class _Log:
    """A display for nobody: lines for the log that submitit keeps of the task."""

    def started(self, job: Job) -> None:
        """A line, with the time."""
        _say(f"{time.strftime('%H:%M:%S')} {job.label}: started as job {job.key}")

    def progressed(self, job: Job, done: int, total: int) -> None:
        """Say nothing: a log needs no bars."""

    def noted(self, job: Job, text: str) -> None:
        """A line."""
        _say(f"{job.label}: {text}")

    def ended(self, outcome: Outcome) -> None:
        """A line, with the reason of what was lost."""
        how = outcome.status + (f": {outcome.reason}" if outcome.reason else "")
        _say(f"{time.strftime('%H:%M:%S')} {outcome.job.label}: {how}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes started from here on ignore Slurm's warnings, which are for this one.

    A worker that died of one would look like a cell that dies hard.
    """
    set_forkserver_preload(PRELOAD)
    signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    try:
        forkserver.ensure_running()  # a process inherits the mask, and so do those it forks
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)
    yield


@contextmanager
def _patient() -> Iterator[None]:
    """Do nothing more once told to make room, until Slurm ends this process.

    It kills a task's processes one after the other: workers that go first would look like cells
    that die hard, while they are only queued again.
    """

    def wait(*_: Any) -> None:
        _say(f"{time.strftime('%H:%M:%S')} told to make room: nothing more is started or noted")
        while True:
            signal.pause()

    before = signal.signal(signal.SIGTERM, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
