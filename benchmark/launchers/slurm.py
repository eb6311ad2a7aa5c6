"""Job arrays of a Slurm cluster. A shared folder, the store, is all that its machines share.

At most two arrays are submitted at once: tasks that compute together what several cells wait for,
and after these a task per cell (`benchmark.slurm.shares`). From then on this process only watches
the store; it may be ended and started again at any time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from benchmark import claims
from benchmark.components import build, component, option
from benchmark.errors import BadCheckpoint
from benchmark.jobs import Job
from benchmark.launching import Display, Launcher, Outcome
from benchmark.slurm import queue, submissions
from benchmark.slurm.shares import missing_from, shares
from benchmark.slurm.submissions import Submission
from benchmark.slurm.submitting import submit, submitit
from benchmark.slurm.task import Task
from benchmark.slurm.watching import Watch, held, queued
from benchmark.store import Store

Count = Annotated[int, Field(ge=1)]
START_S = 90


@component
class Slurm:
    """Job arrays of a Slurm cluster: one task per cell, after tasks for what cells share.

    A cell that raises or dies hard costs one cell. A task that runs out of time, is preempted or
    loses its node is queued again and goes on with the first stage that is not in the store. Ctrl-C
    ends the watching, not the arrays; the same command finds them again.

    Args:
        parallel: tasks of one array at once.
        together: tasks at once for what several cells wait for.
        cells_per_task: more than one pays where cells take less than a minute.
        time_min: minutes that a task may run.
        timeouts: how often a task that ran out of time is queued again.
        warning_s: seconds before the end at which a task is told to queue itself again.
        partition: where to run; None: the cluster's default.
        account: who pays; None: the user's default.
        cpus: cores per task.
        gpus: GPUs per task.
        mem_gb: memory per task.
        extra: further options of sbatch, by their long names: {constraint: a100, nice: 100}.
        setup: shell lines before each task, e.g. ["module load cuda"].
        processes: jobs at once within a task.
        poll_s: seconds between two looks at the store and the queue.
        grace_s: seconds that results of a task that is gone may take to show in the shared folder.
        threads: torch threads per process.
        device: cpu or cuda.
    """

    parallel: Count
    together: Count
    cells_per_task: Count
    time_min: Count
    timeouts: Annotated[int, Field(ge=0)]
    warning_s: Count
    partition: str | None
    account: str | None
    cpus: Count
    gpus: Annotated[int, Field(ge=0)]
    mem_gb: Annotated[float, Field(gt=0)]
    extra: dict[str, Any]
    setup: list[str]
    processes: Count
    poll_s: Annotated[float, Field(gt=0)]
    grace_s: Annotated[float, Field(ge=0)]
    threads: Count
    device: Literal["cpu", "cuda"]

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        if self.device == "cuda" and not self.gpus:
            raise ValueError("device=cuda needs launcher.gpus=1 (or more)")
        if 60 * self.time_min - self.warning_s < START_S:
            # Slurm may warn a minute early, and who is warned while starting dies of it.
            raise ValueError(
                f"time_min={self.time_min} leaves less than {START_S} s before the warning, "
                f"warning_s={self.warning_s} s before the end; allow more minutes"
            )

    @property
    def width(self) -> int:
        """How many jobs run at once, when the cluster lets them."""
        return self.parallel * self.processes

    def __call__(
        self, jobs: Mapping[str, Job], store: Store, display: Display
    ) -> Iterator[Outcome]:
        """See benchmark.launching.Launcher."""
        submitit()
        queue.check_present()
        watch = Watch(dict(jobs), self._hand_out(jobs, store), store, self.grace_s)
        try:
            yield from watch.outcomes(display, self.poll_s)
        except BadCheckpoint:
            queue.cancel(watch.tasks())
            raise
        except (KeyboardInterrupt, GeneratorExit):
            _say(f"{_arrays(watch.tasks())} goes on; `scancel {_numbers(watch.tasks())}` ends it")
            raise

    def _hand_out(self, jobs: Mapping[str, Job], store: Store) -> list[Submission]:
        """Submit what is not queued already; returns every submission that holds some of it."""
        with claims.alone(submissions.folder(store), "submit"):
            earlier = held(jobs, queued(store))
            given = {key for one in earlier for key in one.keys(one.tasks)}
            mine = {key: job for key, job in jobs.items() if key not in given}
            for one in earlier:
                _say(f"{_arrays(one.tasks)} is at it already; logs in {one.folder}")
            return [*earlier, self._submit(mine, jobs, earlier, store)] if mine else earlier

    def _submit(
        self,
        mine: Mapping[str, Job],
        jobs: Mapping[str, Job],
        earlier: Sequence[Submission],
        store: Store,
    ) -> Submission:
        """Submit one or two arrays, the second of which waits for the first."""
        folder, parts = submissions.opened(store), shares(mine, self.cells_per_task)
        needed = missing_from(mine.values(), jobs).keys()
        before = {task for one in earlier for task in one.tasks if needed & one.keys([task])}
        tasks: dict[str, list[str]] = {}
        together = [parts.common] * min(self.together, len(parts.common))
        for share, parallel in ((together, self.together), (parts.own, self.parallel)):
            if share:
                made = [self._task(part, jobs, store, folder) for part in share]
                options = self._options(min(parallel, self.parallel), before)
                ids = submit(made, folder, self.timeouts, options)
                before |= set(ids)
                given = ([job.key for job in part] for part in share)
                tasks |= dict(zip(ids, given, strict=True))
                # Known at once: were this process to end here, its arrays would still be found.
                submissions.write(Submission(folder, tasks))
        _say(f"submitted {_arrays(tasks)}: {len(tasks)} tasks, {len(mine)} jobs; logs in {folder}")
        return Submission(folder, tasks)

    def _task(
        self, part: Sequence[Job], jobs: Mapping[str, Job], store: Store, folder: Path
    ) -> Task:
        return Task(tuple(part), missing_from(part, jobs), store, folder, self._inner())

    def _inner(self) -> Launcher:
        """The local launcher that a task uses on its node."""
        given = {"processes": self.processes, "threads": self.threads, "device": self.device}
        return build({**option("launcher", "local"), **given}, "launcher")

    def _options(self, parallel: int, before: set[str]) -> dict[str, Any]:
        """Options of submitit's script; None is not mentioned there."""
        numbers = sorted({task.partition("_")[0] for task in before}, key=int)
        return {
            "job_name": "lfpm-bench",
            "array_parallelism": parallel,
            "time": self.time_min,
            "signal_delay_s": self.warning_s,
            "partition": self.partition,
            "account": self.account,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus or None,
            "mem": f"{round(self.mem_gb * 1024)}M",
            "dependency": f"afterany:{':'.join(numbers)}" if numbers else None,
            "setup": self.setup,
            "additional_parameters": {"requeue": True, **self.extra},
        }


def _numbers(tasks: Sequence[str] | Mapping[str, Any]) -> str:
    return " ".join(dict.fromkeys(task.partition("_")[0] for task in tasks))


def _arrays(tasks: Sequence[str] | Mapping[str, Any]) -> str:
    numbers = _numbers(tasks)
    return f"Slurm {'arrays' if ' ' in numbers else 'array'} {numbers.replace(' ', ' and ')}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
