"""The ledger of failures: one file per job that ever failed, one line per attempt, never rewritten.

A record says how a cell stands now; the ledger says what went wrong on the way, also after a later
attempt succeeded.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.jobs import Job
from benchmark.store import Store


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt at a job.

    Attributes:
        key: the job's key.
        label: what it was, for people.
        reason: one sentence.
        when: seconds since 1970.
        host: the machine.
        pid: the process that noticed.
        log: the file of its warnings and traceback.
        seen: whether the process that computed it, or the one that had started that process, saw it
            fail; False: concluded from the end of the Slurm task that was to compute it.
    """

    key: str
    label: str
    reason: str
    when: float
    host: str
    pid: int
    log: str
    seen: bool = True


def note(store: Store, job: Job, reason: str, *, seen: bool = True) -> None:
    """Add an attempt that failed; `seen` as in Failure."""
    path = _path(store, job.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    where = (socket.gethostname(), os.getpid(), str(store.log(job.key)))
    failure = Failure(job.key, job.label, reason, time.time(), *where, seen)
    with path.open("a") as file:
        file.write(json.dumps(asdict(failure)) + "\n")


def attempts(store: Store, key: str) -> list[Failure]:
    """The failed attempts at a job, the oldest first."""
    path = _path(store, key)
    lines = path.read_text().splitlines() if path.exists() else []
    return [Failure(**json.loads(line)) for line in lines if line.endswith("}")]


def counted(store: Store) -> dict[str, int]:
    """Key -> how often a job has failed so far: what comes after these is news, by any clock."""
    return {path.stem: len(attempts(store, path.stem)) for path in _files(store)}


def ledger(store: Store, keys: Collection[str] | None = None) -> list[Failure]:
    """Every failed attempt, the oldest first; of these jobs only, if keys are given."""
    known = {path.stem for path in _files(store)}
    chosen = known if keys is None else known & set(keys)
    found = [failure for key in chosen for failure in attempts(store, key)]
    return sorted(found, key=lambda failure: (failure.when, failure.key))


def _files(store: Store) -> Iterator[Path]:
    return (store.root / "failures").glob("*.jsonl")


def _path(store: Store, key: str) -> Path:
    return store.root / "failures" / f"{key}.jsonl"
