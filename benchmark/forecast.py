"""`lfpm-bench run --dry-run`: what a run would compute, and about what it would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmark.cell import Cell
from benchmark.clock import Clock, duration
from benchmark.costs import Costs, measured_costs
from benchmark.estimate import Cost, of_stage, said
from benchmark.jobs import Graph, Job, plan_cell
from benchmark.launching import Launcher
from benchmark.pipeline import Failed, open_cells, recorded
from benchmark.store import Store


@dataclass(frozen=True)
class Share:
    """The jobs of one stage.

    Attributes:
        stage: its name.
        jobs: how many would be computed.
        seconds: of all that have an estimate.
        size: bytes they would write, of all that have an estimate.
        unknown: how many have none: nothing like them is in the store.
        arithmetic: what those cost by `benchmark.estimate`.
    """

    stage: str
    jobs: int
    seconds: float
    size: float
    unknown: int
    arithmetic: Cost


@dataclass(frozen=True)
class Forecast:
    """What a run would compute.

    Attributes:
        cells: how many are asked for, each once.
        states: state of the record -> how many; those without one are missing.
        todo: how many would be computed.
        shares: the work by stage, in the order of the pipeline.
        width: how many jobs would run at once.
        wall: seconds until the end, of jobs with an estimate.
        memory: most bytes that one process would hold, of jobs measured before; None: unknown.
        store: the folder.
    """

    cells: int
    states: dict[str, int]
    todo: int
    shares: tuple[Share, ...]
    width: int
    wall: float
    memory: float | None
    store: str


def forecast(
    cells: Sequence[Cell], store: Store, launcher: Launcher, failed: Failed = "retry"
) -> Forecast:
    """What `benchmark.pipeline.run` would do with the same arguments."""
    found = {key: recorded(store, key) for key in {cell.key: None for cell in cells}}
    todo = open_cells(cells, found, failed)
    graph, numbered = Graph(store), dict[int, Cell]()
    for cell in todo.values():
        plan_cell(graph, cell)
        numbered[graph.cells] = cell
    jobs = graph.jobs
    past = measured_costs(store, (job.stage for job in jobs.values()))
    by_stage: dict[str, list[Job]] = {}
    for job in jobs.values():
        by_stage.setdefault(job.stage, []).append(job)
    held = [memory for job in jobs.values() if (memory := past.memory(job.kinds)) is not None]
    return Forecast(
        cells=len(found),
        states=Counter(record.status if record else "missing" for record in found.values()),
        todo=len(todo),
        shares=tuple(_share(stage, those, past, numbered) for stage, those in by_stage.items()),
        width=launcher.width,
        wall=Clock(jobs, past, launcher.width).left()[0],
        memory=max(held, default=None),
        store=str(store.root),
    )


def _share(stage: str, jobs: Sequence[Job], past: Costs, numbered: Mapping[int, Cell]) -> Share:
    known = [job for job in jobs if past.seconds(job.kinds) is not None]
    unknown = [job for job in jobs if past.seconds(job.kinds) is None]
    seconds = sum(past.seconds(job.kinds) or 0.0 for job in known)
    size = sum(past.size(job.kinds) or 0.0 for job in known)
    by_hand = sum((of_stage(numbered[job.cell], job.call) for job in unknown), Cost())
    return Share(stage, len(jobs), seconds, size, len(unknown), by_hand)


def forecast_text(made: Forecast) -> str:
    """A forecast for people, one line per stage."""
    states = ", ".join(
        f"{count} {state.replace('_', ' ')}" for state, count in sorted(made.states.items())
    )
    lines = [
        f"{_count(made.cells, 'cell')}: {states} (store {made.store})",
        f"to compute: {_count(made.todo, 'cell')}, "
        f"{_count(sum(share.jobs for share in made.shares), 'job')}",
    ]
    lines += [f"  {_line(share)}" for share in made.shares]
    if not made.shares:
        return "\n".join(lines) + "\n"
    work, size = (sum(getattr(one, name) for one in made.shares) for name in ("seconds", "size"))
    if any(share.jobs > share.unknown for share in made.shares):
        memory = f"; {_size(made.memory)} of memory in one process" if made.memory else ""
        lines.append(
            f"measured before: {duration(work)} of work, {_size(size)}{memory}; "
            f"{made.width} at once: about {duration(made.wall)}"
        )
    if unknown := sum(share.unknown for share in made.shares):
        by_hand = sum((share.arithmetic for share in made.shares), Cost())
        lines.append(
            f"never measured here, {_count(unknown, 'job')}, by arithmetic: {said(by_hand)}"
        )
    return "\n".join(lines) + "\n"


def _line(share: Share) -> str:
    known = share.jobs - share.unknown
    cost = f"{duration(share.seconds)}, {_size(share.size)}" if known else "never measured here"
    unknown = f", {share.unknown} never measured here" if known and share.unknown else ""
    return f"{share.stage:<12} {share.jobs:>6}  {cost}{unknown}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size > 2**30 else f"{size / 2**20:.1f} MiB"
