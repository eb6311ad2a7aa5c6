"""What was submitted: one folder per submission in the store, read by whoever comes later.

`<store>/slurm/<when>/tasks.json` maps tasks to the keys of their jobs. Beside it lie the logs and
pickles of these tasks (submitit's), `lost/<key>.json` for every job that one of them could not
compute, and `<task>.reason` for a task that gave up.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.store import Store, write_atomic

KEPT_S = 30 * 24 * 3600
"""Submissions that ended longer ago are deleted when the next one is made."""


@dataclass(frozen=True)
class Submission:
    """One or two arrays, submitted together.

    Attributes:
        folder: where its files are.
        tasks: Slurm's id of a task -> keys of the jobs it was given.
    """

    folder: Path
    tasks: Mapping[str, Sequence[str]]

    def keys(self, tasks: Iterable[str]) -> set[str]:
        """Keys of the jobs that some of its tasks were given."""
        return {key for task in tasks if task in self.tasks for key in self.tasks[task]}

    def lost(self) -> dict[str, dict[str, Any]]:
        """Key -> status, reason, culprit of every job that a task could not compute."""
        return lost(self.folder)

    def holder(self, key: str) -> str:
        """The last task that was given a job."""
        return next(task for task in reversed(list(self.tasks)) if key in self.tasks[task])

    def reason(self, task: str) -> str | None:
        """Why a task gave up, if it said so."""
        path = self.folder / f"{task}.reason"
        return path.read_text().strip() if path.exists() else None

    def log(self, task: str) -> Path:
        """Where a task's standard error goes."""
        return self.folder / f"{task}_0_log.err"


def folder(store: Store) -> Path:
    """Where submissions are."""
    return store.root / "slurm"


def opened(store: Store) -> Path:
    """A new folder for a submission; those long over are deleted."""
    root = folder(store)
    root.mkdir(parents=True, exist_ok=True)
    for path in root.glob("*/tasks.json"):
        if time.time() - path.stat().st_mtime > KEPT_S:
            shutil.rmtree(path.parent, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=root, prefix=time.strftime("%Y%m%d-%H%M%S-")))


def write(submission: Submission) -> None:
    """Make a submission known to those who come later."""
    body = {task: list(keys) for task, keys in submission.tasks.items()}
    write_atomic(submission.folder / "tasks.json", json.dumps(body).encode())


def read_all(store: Store) -> list[Submission]:
    """Every submission that the store remembers, oldest first."""
    paths = sorted(folder(store).glob("*/tasks.json"))
    return [Submission(path.parent, json.loads(path.read_text())) for path in paths]


def lost(place: Path) -> dict[str, dict[str, Any]]:
    """Key -> status, reason, culprit of the jobs that tasks of a submission could not compute."""
    found = {}
    for path in (place / "lost").glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # another attempt has just begun
            found[path.stem] = json.loads(path.read_text())
    return found


def note_lost(place: Path, key: str, status: str, reason: str | None, culprit: str | None) -> None:
    """Say that a job could not be computed."""
    body = {"status": status, "reason": reason, "culprit": culprit}
    write_atomic(place / "lost" / f"{key}.json", json.dumps(body).encode())
