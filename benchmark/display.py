"""Progress on standard error: bars on a terminal, a line per finished job elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmark.clock import Clock
from benchmark.jobs import Job
from benchmark.launching import Outcome

TELL_EVERY = 60.0  # seconds between two lines that say how long a run will take
LOOK_EVERY = 2.0  # seconds between two looks at the clock for the bars


class Terminal:
    """Bars: all jobs on top, with the time to go; one below for each job that is running."""

    def __init__(self, title: str, clock: Clock) -> None:
        console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self.clock, self.looked = clock, -LOOK_EVERY
        self.all = self.bars.add_task(title, total=clock.total, left=clock.told())
        self.running: dict[str, object] = {}

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def started(self, job: Job) -> None:
        """Open a bar."""
        self.clock.start(job)
        self.running[job.key] = self.bars.add_task(f"  {job.label}", total=None, left="")

    def progressed(self, job: Job, done: int, total: int) -> None:
        """Move a bar."""
        self.bars.update(self.running[job.key], completed=done, total=total)  # type: ignore[arg-type]
        self._look()

    def noted(self, job: Job, text: str) -> None:
        """Print a warning above the bars."""
        self.bars.console.print(f"{job.label}: {text}", markup=False, highlight=False)

    def ended(self, outcome: Outcome) -> None:
        """Close a bar; say what was lost."""
        if task := self.running.pop(outcome.job.key, None):
            self.bars.remove_task(task)  # type: ignore[arg-type]
        self.clock.end(outcome.job, done=outcome.status == "done")
        self.bars.advance(self.all)
        self._look()
        if outcome.status != "done":
            self.noted(outcome.job, f"{outcome.status}: {outcome.reason}")

    def _look(self) -> None:
        if time.monotonic() - self.looked > LOOK_EVERY:
            self.looked = time.monotonic()
            self.bars.update(self.all, left=self.clock.told())


class Lines:
    """One line per job that ended, and now and then how long it will take: for logs and pipes."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.told = clock, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        return None

    def started(self, job: Job) -> None:
        """Start its clock."""
        self.clock.start(job)

    def progressed(self, job: Job, done: int, total: int) -> None:
        """Say nothing: a log needs no bars."""

    def noted(self, job: Job, text: str) -> None:
        """A line."""
        sys.stderr.write(f"{job.label}: {text}\n")

    def ended(self, outcome: Outcome) -> None:
        """A line with its number, its name and its seconds."""
        clock = self.clock
        seconds = clock.end(outcome.job, done=outcome.status == "done")
        spent = "" if seconds is None else f" {seconds:.1f} s"
        how = "" if outcome.status == "done" else f" {outcome.status}: {outcome.reason}"
        sys.stderr.write(f"[{clock.ended}/{clock.total}] {outcome.job.label}{spent}{how}\n")
        if time.monotonic() - self.told > TELL_EVERY and (left := clock.told()):
            self.told = time.monotonic()
            sys.stderr.write(f"[{clock.ended}/{clock.total}] {left}\n")
        sys.stderr.flush()


def display(title: str, clock: Clock) -> Terminal | Lines:
    """Bars if standard error is a terminal, else lines."""
    return Terminal(title, clock) if sys.stderr.isatty() else Lines(clock)
