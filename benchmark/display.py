"""Progress on standard error: bars on a terminal, a line per finished job elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmark.jobs import Job
from benchmark.launching import Outcome


class Terminal:
    """Bars: all jobs on top, one below for each job that is running."""

    def __init__(self, title: str, total: int) -> None:
        console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.all = self.bars.add_task(title, total=total)
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
        self.running[job.key] = self.bars.add_task(f"  {job.label}", total=None)

    def progressed(self, job: Job, done: int, total: int) -> None:
        """Move a bar."""
        self.bars.update(self.running[job.key], completed=done, total=total)  # type: ignore[arg-type]

    def noted(self, job: Job, text: str) -> None:
        """Print a warning above the bars."""
        self.bars.console.print(f"{job.label}: {text}", markup=False, highlight=False)

    def ended(self, outcome: Outcome) -> None:
        """Close a bar; say what was lost."""
        if task := self.running.pop(outcome.job.key, None):
            self.bars.remove_task(task)  # type: ignore[arg-type]
        self.bars.advance(self.all)
        if outcome.status != "done":
            self.noted(outcome.job, f"{outcome.status}: {outcome.reason}")


class Lines:
    """One line per job that ended: for logs and pipes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.count = 0
        self.begun: dict[str, float] = {}

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
        self.begun[job.key] = time.monotonic()

    def progressed(self, job: Job, done: int, total: int) -> None:
        """Say nothing: a log needs no bars."""

    def noted(self, job: Job, text: str) -> None:
        """A line."""
        sys.stderr.write(f"{job.label}: {text}\n")

    def ended(self, outcome: Outcome) -> None:
        """A line with its number, its name and its seconds."""
        self.count += 1
        begun = self.begun.pop(outcome.job.key, None)
        spent = "" if begun is None else f" {time.monotonic() - begun:.1f} s"
        how = "" if outcome.status == "done" else f" {outcome.status}: {outcome.reason}"
        sys.stderr.write(f"[{self.count}/{self.total}] {outcome.job.label}{spent}{how}\n")
        sys.stderr.flush()


def display(title: str, total: int) -> Terminal | Lines:
    """Bars if standard error is a terminal, else lines."""
    return Terminal(title, total) if sys.stderr.isatty() else Lines(total)
