"""What runs where a job is computed: the job, and a line of news after each step of it."""

from __future__ import annotations

import contextlib
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import torch

from benchmark import claims, failures
from benchmark.bench import Bench, Incompatible
from benchmark.cell import cell_from
from benchmark.errors import BadCheckpoint, BenchError
from benchmark.jobs import Job
from benchmark.store import Store

REPORT_EVERY = 0.2  # seconds between two progress messages
Tell = Callable[..., None]
"""Called with the name of a method of Display and its arguments after the job."""


def perform(
    job: Job, store: Store, options: Mapping[str, Any], tell: Tell
) -> tuple[Literal["done", "failed", "skipped"], str | None]:
    """Compute a job in this process.

    Args:
        job: one method of its cell's Bench, and arguments.
        store: where its result goes, with the provenance to write beside it.
        options: threads and device (see benchmark.launching.options).
        tell: is told of progress.

    Returns:
        Its status, and the reason in one sentence for any but done.

    Raises:
        BadCheckpoint: the user's weights are unusable.
    """
    torch.set_num_threads(options["threads"])
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_EVERY:
            last = time.monotonic()
            tell("progressed", done, total)

    # If another run was quicker to claim the job, its stage waits for that result.
    with claims.claimed(store.claims, job.key, job.label):
        try:
            bench = Bench(cell_from(job.config), store, options["device"], progress)
            getattr(bench, job.call[0])(*job.call[1:])
        except Incompatible as reason:
            return "skipped", str(reason)
        except BadCheckpoint:
            raise
        except Exception as error:
            logging.getLogger(__name__).error("%s", traceback.format_exc())
            kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
            reason = f"{kind}{error}".strip().splitlines()[0]
            failures.note(store, job, reason)
            return "failed", reason
    return "done", None


def work(job: Job, store: Store, log: str, options: Mapping[str, Any], pipe: Connection) -> None:
    """Compute a job in a process of its own.

    Args:
        job: see `perform`.
        store: see `perform`.
        log: file for warnings and tracebacks.
        options: see `perform`.
        pipe: where news goes, as tuples whose first word is a method of Display or `ended` (with
            status and reason; `bad_input` for BadCheckpoint).
    """

    def tell(*words: Any) -> None:
        pipe.send(words)

    with logging_to(Path(log), tell):
        try:
            tell("ended", *perform(job, store, options, tell))
        except BadCheckpoint as error:
            tell("ended", "bad_input", str(error))


class _Notes(logging.Handler):
    """Warnings of a job go to the person at the terminal as well."""

    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self.tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; tracebacks stay in the log file."""
        if record.levelno < logging.ERROR:
            self.tell("noted", record.getMessage())


@contextlib.contextmanager
def logging_to(path: Path, tell: Tell) -> Iterator[None]:
    """Send warnings and tracebacks of a job to its log file, and warnings to `tell`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    root, handlers = logging.getLogger(), [logging.FileHandler(path, delay=True), _Notes(tell)]
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
