"""Cells that cost nothing: real plans, launchers, claims and records, but made-up stages.

`run(WORDS)` runs a sweep as `lfpm-bench run` does, without torch. What a stage gives follows from
its key alone, so equal sweeps have equal records.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from typing import Any, Literal

from benchmark import claims, cli, failures, pipeline
from benchmark.cell import Cell, cell_from
from benchmark.components import component
from benchmark.display import display
from benchmark.jobs import Job
from benchmark.launchers.local import Pool
from benchmark.launching import Display, Outcome, Schedule
from benchmark.store import Artifact, Store, write_atomic

METHODS = {"split": "data", "pretrained": "pretrain"}
"""Methods of Bench whose stage has another name in Cell."""


class Plain(Store):
    """A store of JSON alone; each artifact that is written leaves a line in `computed/KEY`."""

    def load(self, stage: str, key: str) -> Artifact | None:
        return ({}, self.info(stage, key)["info"]) if self.has(stage, key) else None

    def save(self, stage: str, key: str, artifact: Artifact, inputs: Mapping, spent=None) -> None:
        body = {"key": key, "inputs": dict(inputs), "info": artifact[1], "made": dict(spent or {})}
        write_atomic(self.path(stage, key).with_suffix(".safetensors"), b"")
        write_atomic(self.path(stage, key), json.dumps(body).encode())
        with (self.root / "computed" / key).open("a") as file:
            file.write(f"{os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")


def made_up(cell: Cell, job: Job) -> dict[str, Any]:
    """What the stage of a job says, from its key."""
    if job.stage == "implanted":
        return {"reason": None}
    if job.stage != "evaluation":
        return {"points": []} if job.stage == "curve" else {"info": {}}
    count = {"hits": int(job.key[:4], 16) % 101, "total": 100}
    names = ("asr", "target_rate", "target_recall", "triggered_acc", "misclassified")
    (task, target) = cell.attack.victim
    threat = {"task": task, "target": target, **dict.fromkeys(names, count)}
    threat |= {"flipped": {}, "flipped_shuffled": {}}
    return {"clean": dict.fromkeys(cell.evaluated_tasks(job.call[1]), count), "threats": [threat]}


def perform(
    job: Job, store: Store, options: Mapping[str, Any]
) -> tuple[Literal["done", "failed"], str | None]:
    """As benchmark.worker.perform."""
    cell = cell_from(job.config)
    method, *arguments = job.call
    name, version, inputs = getattr(cell, METHODS.get(method, method))(*arguments)

    def make() -> Artifact:
        time.sleep(options["seconds"])
        if options["dies"] and options["dies"] in job.label:
            os.kill(os.getpid(), signal.SIGKILL)
        if options["raises"] and options["raises"] in job.label:
            raise RuntimeError("it was told to")
        return {}, made_up(cell, job)

    with claims.claimed(store.claims, job.key, job.label):
        try:
            spent = {"seconds": options["seconds"]}
            Plain(store.root).stage(name, version, inputs, make, lambda: spent)
        except RuntimeError as error:
            failures.note(store, job, str(error))
            return "failed", str(error)
    return "done", None


def work(job: Job, store: Store, log: str, options: Mapping[str, Any], pipe: Connection) -> None:
    """As benchmark.worker.work."""
    pipe.send(("ended", *perform(job, store, options)))


@component
class Pretend:
    """Worker processes that pretend.

    Args:
        processes: how many at once; 0: none, everything in this process.
        threads: unused.
        device: unused.
        seconds: how long a stage takes.
        dies: jobs with this in their label kill themselves.
        raises: jobs with this in their label raise.
        gpus: names of GPUs, one per process.
    """

    processes: int = 2
    threads: int = 1
    device: str = "cpu"
    seconds: float = 0.0
    dies: str = ""
    raises: str = ""
    gpus: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        return max(self.processes, 1)

    def __call__(
        self, jobs: Mapping[str, Job], store: Store, display: Display
    ) -> Iterator[Outcome]:
        (store.root / "computed").mkdir(exist_ok=True)
        options = {"seconds": self.seconds, "dies": self.dies, "raises": self.raises}
        if self.processes:
            slots = self.gpus or (None,) * self.processes
            yield from Pool(store, slots, options, ["tests.pretend"]).run(jobs, display)
            return
        schedule = Schedule(jobs)
        while job := schedule.take():
            yield from schedule.end(Outcome(job, *perform(job, store, options)))


def run(words: list[str]) -> pipeline.Summary:
    """Run the sweep of these words; `pretend.NAME=VALUE` is for Pretend."""
    mine = [word.removeprefix("pretend.") for word in words if word.startswith("pretend.")]
    values = {name: json.loads(value) for name, value in (one.split("=", 1) for one in mine)}
    asked = cli._asked([word for word in words if not word.startswith("pretend.")])
    plan = cli._plan(asked)
    assert plan is not None
    cells, store = [cell_from(one) for one in plan.configs], Store(plan.runtime["store"])
    launcher = {"_target_": "tests.pretend.Pretend", **values}
    return pipeline.run(cells, store, launcher, display, asked.failed)
