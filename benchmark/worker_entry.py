"""The door into a worker process: importable without torch, so that planning never loads it."""

from __future__ import annotations

import signal
from typing import Any


def enter(*args: Any) -> None:
    """Run `benchmark.worker.work`; Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from benchmark.worker import work

    work(*args)
