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
    """Task -> state, e.g. "12_3" -> "RUNNING on n1" or "PENDING (Priority)", of this user's tasks.

    Slurm forgets those that ended some minutes ago. None: it did not answer, which says nothing.
    """
    words = ["squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%T|%r|%N"]
    told = _ask(words)
    if told is None:
        return None
    rows = [line.split("|") for line in told.splitlines()]
    return {row[0]: _state(*row[1:]) for row in rows if len(row) == 4}


def _state(state: str, why: str, node: str) -> str:
    if state == "RUNNING":
        return f"{state} on {node}"
    return f"{state} ({why})" if state == "PENDING" else state


def lives(state: str) -> bool:
    """Whether a task in this state, as `states` tells it, is queued or running."""
    return bool(state) and state.partition(" ")[0] not in ENDED


def living(known: Iterable[str]) -> set[str] | None:
    """Which of some tasks are queued or running; None: Slurm did not answer."""
    said = states()
    if said is None:
        return None
    return {task for task in known if lives(said.get(task, ""))}


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
