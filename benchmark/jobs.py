"""From cells to jobs: which stages are missing, and what each of them waits for. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmark.cell import Cell, Stage
from benchmark.costs import Kinds, kinds_of
from benchmark.store import Store, key_of
from benchmark.stressing import stress_tasks


@dataclass(frozen=True)
class Job:
    """One stage to compute, in one process.

    Attributes:
        key: the stage's key; two cells that need the same stage share the job.
        stage: the stage's name: where its artifact is.
        label: how progress and errors call it.
        call: name of a method of `benchmark.bench.Bench`, and its arguments.
        config: the plain config of a cell that needs it.
        after: keys of the jobs it waits for.
        cost: a rough size (image passes), to start a cell's long jobs early.
        cell: number of the first cell that needs it: early cells are finished first.
        kinds: what jobs of like cost are called (benchmark.costs).
    """

    key: str
    stage: str
    label: str
    call: tuple[str, ...]
    config: Any = field(repr=False)
    after: frozenset[str] = frozenset()
    cost: float = 0.0
    cell: int = 0
    kinds: Kinds = ()


class Graph:
    """The jobs that a set of cells still needs, keyed by stage key; without a store all of them."""

    def __init__(self, store: Store | None) -> None:
        self.store = store
        self.jobs: dict[str, Job] = {}
        self.cells = 0
        self._complete: set[str] = set()

    def missing(self, stage: Stage) -> bool:
        """Whether a stage's artifact has to be computed."""
        key = key_of(*stage)
        if self.store is None:
            return True
        if key not in self._complete and self.store.has(stage[0], key):
            self._complete.add(key)
        return key not in self._complete

    def want(
        self,
        cell: Cell,
        stage: Stage,
        label: str,
        call: tuple[str, ...],
        after: Iterable[Stage] = (),
        cost: float = 0.0,
    ) -> None:
        """Add a job for a stage unless its artifact is there or the job is already planned."""
        key = key_of(*stage)
        if key in self.jobs or not self.missing(stage):
            return
        waits = frozenset(key_of(*one) for one in after if self.missing(one))
        after_open, kinds = waits & self.jobs.keys(), kinds_of(stage[0], stage[2])
        self.jobs[key] = Job(
            key, stage[0], label, call, cell.config, after_open, cost, self.cells, kinds
        )


def job_keys(cell: Cell) -> set[str]:
    """The keys of every job that a cell is made of."""
    graph = Graph(None)
    plan_cell(graph, cell)
    return set(graph.jobs)


def plan_cell(graph: Graph, cell: Cell) -> frozenset[str]:
    """Add a cell's missing stages to the graph; returns the keys of the stages it reads."""
    graph.cells += 1
    _plan_inputs(graph, cell)
    _plan_models(graph, cell)
    needed = {key_of(*cell.implanted())}
    graph.want(
        cell, cell.implanted(), f"implanted? {_attack(cell)}", ("implanted",), [cell.compromise()]
    )
    split = cell.suite.evaluate
    for subject in cell.subjects():
        stage, model = cell.evaluation(subject), cell.model_stage(subject)
        tests = [cell.data(task, split) for task in cell.evaluated_tasks(subject)]
        heads = [cell.head(task) for task in cell.evaluated_tasks(subject)]
        stressed = _plan_stress(graph, cell, subject)
        inputs = [one for one in (model, stressed) if one]
        after = [cell.compromise(), *tests, *heads, *inputs]
        label = f"evaluate {subject} {_row(cell)}"
        graph.want(cell, stage, label, ("evaluation", subject), after, 5_000)
        needed.add(key_of(*stage))
    if (curve := cell.curve()) is not None:
        models = [cell.merged("attacked"), cell.defended("attacked")]
        tests = [cell.data(task, split) for task in cell.suite.tasks]
        heads = [cell.head(task) for task in cell.suite.tasks]
        after = [cell.compromise(), *models, *tests, *heads]
        graph.want(cell, curve, f"curve {_row(cell)}", ("curve",), after, 4_000)
        needed.add(key_of(*curve))
    return frozenset(needed)


def _plan_stress(graph: Graph, cell: Cell, subject: str) -> Stage | None:
    """Add the job that stresses a subject, if it is stressed; returns its stage."""
    stage, model = cell.stressed(subject), cell.model_stage(subject)
    if stage is None:
        return None
    experts = [cell.expert(task) for task in cell.suite.tasks]
    train = [cell.data(task, "train") for task in stress_tasks(cell)]
    heads = [cell.head(task) for task in stress_tasks(cell)]
    after = [cell.compromise(), *experts, *train, *heads, *([model] if model else [])]
    label = f"stress {subject} {_row(cell)}"
    graph.want(cell, stage, label, ("stressed", subject), after, 10_000)
    return stage


def _row(cell: Cell) -> str:
    names = cell.names
    stress = "" if cell.stressed("main") is None else f" after {names['stress']}"
    return f"{names['attack']}/{names['merge']}/{names['defense']}{stress} seed {cell.seed}"


def _attack(cell: Cell) -> str:
    return f"{cell.names['attack']} seed {cell.seed}"


def _plan_inputs(graph: Graph, cell: Cell) -> None:
    drawn = [task for task in cell.suite.tasks if not hasattr(cell.datasets[task], "mapped")]
    for task in drawn:  # images of the others are decoded and mapped from their own folder
        for split in ("train", "dev", "test"):
            stage = cell.data(task, split)
            graph.want(cell, stage, f"data {task}/{split}", ("split", task, split), (), 3_000)
    base = []
    if cell.backbone.weights is None:
        base = [cell.pretrain()]
        graph.want(cell, cell.pretrain(), "pretrain", ("pretrained",), (), 1e9)
    for task in cell.suite.tasks:
        graph.want(cell, cell.head(task), f"head {task}", ("head", task), base, 1e6)
    # Adversaries first: their attack is the longest chain.
    order = (*cell.attack.adversaries, *cell.suite.tasks)
    for task in dict.fromkeys(order):
        if task in cell.imported:
            stage = cell.expert(task)
            graph.want(cell, stage, f"imported expert {task}", ("expert", task), base, 1_000)
            continue
        after = [cell.head(task), cell.data(task, "train")]
        label = f"expert {task} seed {cell.seed}"
        cost = 40_000 if task in cell.attack.adversaries else 20_000
        graph.want(cell, cell.expert(task), label, ("expert", task), after, cost)
    after = [cell.expert(task) for task in cell.attack.adversaries]
    after += [cell.head(task) for task in cell.attack_tasks]
    graph.want(cell, cell.compromise(), f"attack {_attack(cell)}", ("compromise",), after, 60_000)


def _plan_models(graph: Graph, cell: Cell) -> None:
    experts = [cell.expert(task) for task in cell.suite.tasks]
    dev = [cell.data(task, "dev") for task in cell.suite.tasks]
    heads = [cell.head(task) for task in cell.suite.tasks]
    sides = ("clean", "attacked", "without") if cell.attack.adversaries else ("clean",)
    passes = float(getattr(cell.defense, "passes", 0))
    for side in sides:
        after = [*experts, *dev, *heads, *([cell.compromise()] if side == "attacked" else [])]
        whose = f"attacked by {cell.names['attack']}" if side == "attacked" else side
        label = f"merge {cell.names['merge']} ({whose}) seed {cell.seed}"
        price = max(4_000.0, float(getattr(cell.merge, "passes", 0)))
        graph.want(cell, cell.merged(side), label, ("merged", side), after, price)
    for side in sides[:2]:
        stage, label = cell.defended(side), f"defend {side} {_row(cell)}"
        after = [cell.merged(side), *dev, *heads]
        graph.want(cell, stage, label, ("defended", side), after, passes)
