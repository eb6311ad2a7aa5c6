"""The door into a worker process: importable without torch, so that planning never loads it."""

from __future__ import annotations

import os
import signal
import threading
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any


def enter(worker: str, gpu: str | None, pipe: Connection, *args: Any) -> None:
    """Run the `work` of a module (`benchmark.worker`); Ctrl-C is the parent's business.

    Args:
        worker: the module's name.
        gpu: the one GPU that this process shall see; None: what there is. CUDA reads it when it is
            first used, which the process this one was forked from has not done.
        pipe: where news goes; its other end closing means that nobody waits any more.
        args: what `work` takes before the pipe.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_when_orphaned, args=(pipe,), daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import_module(worker).work(*args, pipe)


def _leave_when_orphaned(pipe: Connection) -> None:
    """End this process when the parent is gone, however it went."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)
