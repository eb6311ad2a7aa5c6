"""Every job in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field

from benchmark.components import component
from benchmark.jobs import Job
from benchmark.launching import Display, Outcome, Schedule, log_path, options
from benchmark.store import Store


@component
class Inline:
    """Every job in this process, one after the other: for debuggers and machines without fork.

    A job that raises is recorded like anywhere else; a hard death (out of memory, a crash in native
    code) ends the run, and the same command goes on from there.

    Args:
        threads: torch threads.
        device: cpu or cuda.
    """

    threads: Annotated[int, Field(ge=1)]
    device: Literal["cpu", "cuda"]

    def __call__(
        self, jobs: Mapping[str, Job], store: Store, display: Display
    ) -> Iterator[Outcome]:
        """See benchmark.launching.Launcher."""
        from benchmark.worker import logging_to, perform

        schedule = Schedule(jobs)
        while job := schedule.take():
            display.started(job)

            def told(kind: str, *words: object, job: Job = job) -> None:
                getattr(display, kind)(job, *words)

            with logging_to(log_path(store, job), told):
                status, reason = perform(job, store, options(self), told)
            for outcome in schedule.end(Outcome(job, status, reason)):
                display.ended(outcome)
                yield outcome
