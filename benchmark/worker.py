"""What runs in a worker process: one job, and a line of news after each step of it."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmark.bench import Bench, Incompatible
from benchmark.cell import cell_from
from benchmark.errors import BadCheckpoint, BenchError
from benchmark.store import Store

REPORT_EVERY = 0.2  # seconds between two progress messages


def work(
    call: tuple[str, ...],
    config: Any,
    root: str,
    log: str,
    options: dict[str, Any],
    pipe: Connection,
) -> None:
    """Run one method of a cell's Bench.

    Args:
        call: method name and arguments.
        config: the cell's plain config.
        root: the store's folder.
        log: file for warnings and tracebacks.
        options: threads, device, and `made`: the provenance to write beside artifacts.
        pipe: where news goes, as tuples whose first word is progress, note, done, skipped,
            bad_input or failed; its other end closing means that nobody waits any more.
    """
    threading.Thread(target=_leave_when_orphaned, args=(pipe,), daemon=True).start()
    torch.set_num_threads(options["threads"])
    _log_to(Path(log), pipe)
    last = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_EVERY:
            last = time.monotonic()
            pipe.send(("progress", done, total))

    try:
        bench = Bench(cell_from(config), Store(root, options["made"]), options["device"], progress)
        getattr(bench, call[0])(*call[1:])
    except Incompatible as reason:
        pipe.send(("skipped", str(reason)))
    except BadCheckpoint as error:
        pipe.send(("bad_input", str(error)))
    except Exception as error:
        logging.getLogger(__name__).error("%s", traceback.format_exc())
        kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
        pipe.send(("failed", f"{kind}{error}".strip().splitlines()[0]))
    else:
        pipe.send(("done",))


def _leave_when_orphaned(pipe: Connection) -> None:
    """End this process when the parent is gone, however it went."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)


class _Notes(logging.Handler):
    """Warnings of a job go to the person at the terminal as well."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(logging.WARNING)
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; tracebacks stay in the log file."""
        if record.levelno < logging.ERROR:
            self.pipe.send(("note", record.getMessage()))


def _log_to(path: Path, pipe: Connection) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, delay=True)
    logging.basicConfig(level=logging.WARNING, handlers=[file, _Notes(pipe)], force=True)
