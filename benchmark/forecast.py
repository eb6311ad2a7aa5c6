"""`lfpm-bench run --dry-run`: what a run would compute, and about what it would cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmark.cell import Cell
from benchmark.clock import Clock, duration
from benchmark.costs import measured_costs
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
    """

    stage: str
    jobs: int
    seconds: float
    size: float
    unknown: int


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
        store: the folder.
    """

    cells: int
    states: dict[str, int]
    todo: int
    shares: tuple[Share, ...]
    width: int
    wall: float
    store: str


def forecast(
    cells: Sequence[Cell], store: Store, launcher: Launcher, failed: Failed = "retry"
) -> Forecast:
    """What `benchmark.pipeline.run` would do with the same arguments."""
    found = {key: recorded(store, key) for key in {cell.key: None for cell in cells}}
    todo = open_cells(cells, found, failed)
    graph = Graph(store)
    for cell in todo.values():
        plan_cell(graph, cell)
    jobs = graph.jobs
    past = measured_costs(store, (job.stage for job in jobs.values()))
    by_stage: dict[str, list[Job]] = {}
    for job in jobs.values():
        by_stage.setdefault(job.stage, []).append(job)

    def share(stage: str, jobs: Sequence[Job]) -> Share:
        known = [(past.seconds(job.kinds), past.size(job.kinds) or 0.0) for job in jobs]
        seconds, sizes = sum(one or 0.0 for one, _ in known), sum(size for _, size in known)
        return Share(stage, len(jobs), seconds, sizes, sum(one is None for one, _ in known))

    states = Counter(record.status if record else "missing" for record in found.values())
    shares = tuple(share(stage, jobs) for stage, jobs in by_stage.items())
    wall = Clock(jobs, past, launcher.width).left()[0]
    return Forecast(
        len(found), dict(states), len(todo), shares, launcher.width, wall, str(store.root)
    )


def forecast_text(made: Forecast) -> str:
    """A forecast for people, one line per stage."""
    states = ", ".join(
        f"{count} {state.replace('_', ' ')}" for state, count in sorted(made.states.items())
    )
    lines = [
        f"{made.cells} cells: {states} (store {made.store})",
        f"to compute: {made.todo} cells, {sum(share.jobs for share in made.shares)} jobs",
    ]
    lines += [f"  {_line(share)}" for share in made.shares]
    if not made.shares:
        return "\n".join(lines) + "\n"
    work, size = (sum(getattr(one, name) for one in made.shares) for name in ("seconds", "size"))
    unknown = sum(share.unknown for share in made.shares)
    measured = f"; {unknown} jobs are of kinds never measured here and not counted"
    lines.append(
        f"in all: {duration(work)} of work, {_size(size)}; {made.width} at once: about "
        f"{duration(made.wall)}{measured if unknown else ''}"
    )
    return "\n".join(lines) + "\n"


def _line(share: Share) -> str:
    known = share.jobs - share.unknown
    cost = f"{duration(share.seconds)}, {_size(share.size)}" if known else "never measured here"
    unknown = f", {share.unknown} never measured here" if known and share.unknown else ""
    return f"{share.stage:<12} {share.jobs:>6}  {cost}{unknown}"


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size > 2**30 else f"{size / 2**20:.1f} MiB"
