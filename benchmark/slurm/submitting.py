"""Arrays are submitted through submitit, an optional extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmark.errors import BenchError


def submitit() -> Any:
    """The module; one sentence where it is not installed."""
    try:
        return import_module("submitit")
    except ImportError as error:
        raise BenchError(
            "launcher=slurm needs submitit, which is not installed: "
            "pip install 'lfpm-bench[slurm]' (in a checkout: pip install -e '.[slurm]')"
        ) from error


def submit(
    tasks: Sequence[Callable[[], None]], folder: Path, timeouts: int, options: Mapping[str, Any]
) -> list[str]:
    """Submit tasks as one array; returns Slurm's ids in their order (of one task: no array).

    Args:
        tasks: what each runs.
        folder: for scripts, pickles and logs; all nodes see it.
        timeouts: how often a task that ran out of time is queued again.
        options: of submitit's sbatch script.
    """
    module = submitit()
    try:
        executor = module.SlurmExecutor(folder=folder, max_num_timeout=timeouts)
        executor.update_parameters(**options)
        with executor.batch():
            made = [executor.submit(task) for task in tasks]
    except (module.core.utils.FailedJobError, module.core.utils.FailedSubmissionError) as error:
        raise BenchError(f"sbatch refused the array: {' '.join(str(error).split())}") from error
    return [job.job_id for job in made]
