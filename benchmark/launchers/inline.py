"""Every job in this process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from benchmark import failures
from benchmark.components import component
from benchmark.jobs import Job
from benchmark.launching import RETRY, Display, Outcome, Schedule, elsewhere, ended, options
from benchmark.store import Store


@component
class Inline:
    """Every job in this process, one after the other: for debuggers and small things.

    A job that raises is recorded like anywhere else; a hard death (out of memory, a crash in native
    code) ends the run, and the same command goes on from there.

    Args:
        threads: torch threads.
        device: cpu or cuda.
    """

    threads: Annotated[int, Field(ge=1)]
    device: Literal["cpu", "cuda"]

    @property
    def width(self) -> int:
        """One job at a time."""
        return 1

    def __call__(
        self, jobs: Mapping[str, Job], store: Store, display: Display
    ) -> Iterator[Outcome]:
        """See benchmark.launching.Launcher."""
        schedule, before = Schedule(jobs), failures.counted(store)
        while len(schedule):
            if (job := schedule.take()) is None:
                time.sleep(RETRY)  # what is left is being computed by another run
                continue
            outcome = ended(job, store, before)
            if outcome is None and elsewhere(job, store):
                schedule.postpone(job)
                continue
            for one in schedule.end(outcome or self._computed(job, store, display)):
                display.ended(one)
                yield one

    def _computed(self, job: Job, store: Store, display: Display) -> Outcome:
        from benchmark.worker import logging_to, perform

        def tell(kind: str, *words: object) -> None:
            getattr(display, kind)(job, *words)

        display.started(job)
        with logging_to(store.log(job.key), tell):
            return Outcome(job, *perform(job, store, options(self), tell))
