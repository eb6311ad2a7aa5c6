"""What Slurm says of its tasks. Its word is good for waiting and for reasons, never for results."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Iterable

from benchmark.errors import BenchError

ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "REVOKED", "TIMEOUT",
)  # fmt: skip
"""States that a task does not leave again, unless it is requeued: then it is PENDING next."""
PATIENCE_S = 60


def check_present() -> None:
    """Raise one sentence where Slurm's commands are not."""
    lacking = [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]
    if lacking:
        raise BenchError(
            f"launcher=slurm needs {', '.join(lacking)} on the PATH: run it on a login node of the "
            "cluster, or choose launcher=local"
        )


def states() -> dict[str, str] | None:
    """Task -> state, e.g. "12_3" -> "RUNNING", of this user's tasks that Slurm has in mind.

    It forgets those that ended some minutes ago. None: it did not answer, which says nothing.
    """
    words = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T"]
    told = _ask(words)
    if told is None:
        return None
    return dict(line.split("|", 1) for line in told.splitlines() if "|" in line)


def living(known: Iterable[str]) -> set[str] | None:
    """Which of some tasks are queued or running; None: Slurm did not answer."""
    said = states()
    if said is None:
        return None
    return {task for task in known if task in said and said[task] not in ENDED}


def last_state(task: str) -> str:
    """How a task ended, from the accounting where there is one, e.g. "CANCELLED by 1000"."""
    told = _ask(["sacct", "-n", "-P", "-X", "-j", task, "-o", "State,ExitCode"]) or ""
    state, _, code = told.strip().rpartition("\n")[2].partition("|")
    if not state:
        return (states() or {}).get(task, "unknown: Slurm has forgotten it")
    return f"{state}, exit code {code}" if state == "FAILED" else state


def cancel(tasks: Iterable[str]) -> None:
    """End tasks; those that have ended are no error."""
    named = list(tasks)
    if named:
        _ask(["scancel", *named])


def _ask(words: list[str]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
