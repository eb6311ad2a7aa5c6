"""From cells to records: plan what is missing, run it, write each record as soon as it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmark import records
from benchmark.cell import Cell
from benchmark.checkpoints.manifest import lineage
from benchmark.clock import Clock
from benchmark.costs import measured_costs, measured_seconds
from benchmark.data.real import check_present
from benchmark.errors import BenchError
from benchmark.jobs import Graph, Job, plan_cell
from benchmark.launching import Display, Launcher, Outcome, launcher_from
from benchmark.provenance import provenance
from benchmark.records import Record, Status
from benchmark.store import Store, key_of

Screen = Callable[[str, Clock], AbstractContextManager[Display]]
Failed = Literal["retry", "only", "keep"]


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        asked: how many cells were asked for.
        records: of every one of them that has one, in order.
        computed: how many of them this run wrote; another run on the store may have written others.
        logs: label -> log of each job that failed.
    """

    asked: int
    records: list[Record]
    computed: int
    logs: Mapping[str, Path]

    @property
    def failed(self) -> list[Record]:
        """Cells that failed."""
        return [record for record in self.records if record.status == "failed"]


def record_path(store: Store, key: str) -> Path:
    """Where a cell's record is (or would be)."""
    return store.root / "records" / f"{key}.json"


def finished(store: Store, key: str) -> Record | None:
    """A cell's record if it is in the store and no failure."""
    record = recorded(store, key)
    return None if record is None or record.status == "failed" else record


def recorded(store: Store, key: str) -> Record | None:
    """A cell's record, whatever its status; None if there is none."""
    path = record_path(store, key)
    return records.read(path) if path.exists() else None


def open_cells(
    cells: Sequence[Cell], found: Mapping[str, Record | None], failed: Failed = "retry"
) -> dict[str, Cell]:
    """The cells to compute, by key, each once.

    Args:
        cells: what is asked for.
        found: key -> its record or None.
        failed: `retry` those that failed, with the missing ones; `only` those; `keep` them as is.
    """
    wanted = {"retry": (None, "failed"), "only": ("failed",), "keep": (None,)}[failed]
    states = {key: record.status if record else None for key, record in found.items()}
    return {cell.key: cell for cell in cells if states[cell.key] in wanted}


def run(
    cells: Sequence[Cell],
    store: Store,
    launcher: Mapping[str, Any],
    display: Screen,
    failed: Failed = "retry",
    tell: Callable[[Record], None] = lambda record: None,
) -> Summary:
    """Compute the records that are missing.

    Args:
        cells: what is asked for; equal cells are computed once.
        store: where everything is kept.
        launcher: the resolved config of an option of conf/launcher.
        display: makes, from a title and a clock, the one who is told of progress.
        failed: what to do with cells that failed before (see `open_cells`).
        tell: called with every record once it is whole, those that were there first.
    """
    check_present(one for cell in cells for one in cell.datasets.values())
    chosen = launcher_from(launcher)
    found = {key: recorded(store, key) for key in {cell.key: None for cell in cells}}
    todo = open_cells(cells, found, failed)
    logs: dict[str, Path] = {}
    computed = 0
    for record in filter(None, found.values()):
        tell(record)
    if todo:
        store.check_writable()
        for key, record, ours in _compute(todo, store, chosen, display, logs):
            found[key] = record
            tell(record)
            computed += ours
    there = [record for cell in cells if (record := found[cell.key]) is not None]
    return Summary(len(cells), there, computed, logs)


def _compute(
    todo: Mapping[str, Cell],
    store: Store,
    launcher: Launcher,
    display: Screen,
    logs: dict[str, Path],
) -> Iterator[tuple[str, Record, bool]]:
    """Run the missing stages; yield each cell's record once it is there, and whether it is ours."""
    graph = Graph(store)
    needed = {key: plan_cell(graph, cell) & graph.jobs.keys() for key, cell in todo.items()}
    made = Store(store.root, provenance(launcher.threads, launcher.device))
    readers: dict[str, list[str]] = {key: [] for key in graph.jobs}
    for key, jobs in needed.items():
        for job in jobs:
            readers[job].append(key)
    ended: dict[str, Outcome] = {}
    with display(f"{len(todo)} cells", _clock(graph, store, launcher)) as screen:
        for key in (key for key, jobs in needed.items() if not jobs):
            yield key, *_closed(todo[key], [], store)
        for outcome in launcher(graph.jobs, made, screen):
            ended[outcome.job.key] = outcome
            if outcome.status == "failed" and outcome.culprit is None:
                logs[outcome.job.label] = store.log(outcome.job.key)
            for key in readers[outcome.job.key]:
                if needed[key] <= ended.keys():
                    yield key, *_closed(todo[key], [ended[job] for job in needed[key]], store)


def _clock(graph: Graph, store: Store, launcher: Launcher) -> Clock:
    past = measured_costs(store, (job.stage for job in graph.jobs.values()))

    def made(job: Job) -> float | None:
        return measured_seconds(store, job.stage, job.key)

    return Clock(graph.jobs, past, launcher.width, made=made)


def pretrain(
    cell: Cell,
    store: Store,
    launcher: Mapping[str, Any],
    display: Screen,
) -> Path:
    """Run the pre-training stage of a cell's backbone; returns the file of its weights."""
    store.check_writable()
    graph = Graph(store)
    graph.want(cell, cell.pretrain(), "pretrain", ("pretrained",))
    chosen = launcher_from(launcher)
    made = Store(store.root, provenance(chosen.threads, chosen.device))
    with display("pretrain", _clock(graph, store, chosen)) as screen:
        for outcome in chosen(graph.jobs, made, screen):
            if outcome.status != "done":
                raise BenchError(f"pre-training failed: {outcome.reason}")
    return store.path("pretrain", key_of(*cell.pretrain())).with_suffix(".safetensors")


def _closed(cell: Cell, ended: Sequence[Outcome], store: Store) -> tuple[Record, bool]:
    """The record of a cell whose every stage has ended, and whether we wrote it."""
    # Another run on this store may have finished it, also where ours has failed.
    if (theirs := finished(store, cell.key)) is not None:
        return theirs, False
    causes = sorted(
        (one for one in ended if one.status != "done"), key=lambda one: (one.status, one.job.key)
    )
    record = _lost_record(cell, causes) if causes else assemble(cell, store)
    records.write(store.root / "records", record)
    return record, True


def _lost_record(cell: Cell, causes: Sequence[Outcome]) -> Record:
    """Failed, if anything failed; the reason names the job that was the first to go."""
    first = causes[0]
    culprit = f"{first.culprit or first.job.label}: " if first.status == "failed" else ""
    return _record(cell, status=first.status, reason=f"{culprit}{first.reason}")  # type: ignore[arg-type]


def assemble(cell: Cell, store: Store) -> Record:
    """The record of a cell whose stages are all in the store. Reads JSON only."""
    stages = {subject: cell.evaluation(subject) for subject in cell.subjects()}
    sidecars = {name: store.info(stage[0], key_of(*stage)) for name, stage in stages.items()}
    counts = {
        name: records.evaluation_from({**sidecar["info"], "key": sidecar["key"]})
        for name, sidecar in sidecars.items()
    }
    reason = store.info("implanted", key_of(*cell.implanted()))["info"]["reason"]
    model = cell.model_stage("main")
    assert model is not None
    made = store.info(model[0], key_of(*model))
    attack = store.info("implanted", key_of(*cell.implanted()))["info"]
    cost = {"defense": made["made"], "evaluation": sidecars["main"]["made"]}
    stressed = cell.stressed("main")
    told = {"stress": store.info("stress", key_of(*stressed))["info"]["info"]} if stressed else {}
    planted = cell.compromise()
    attacked = store.info(planted[0], key_of(*planted))["info"].get("info")
    told |= {"attack": attacked} if attacked else {}
    told |= {"imported": lineage(cell.imported)} if cell.imported else {}
    return _record(
        cell,
        status="not_implanted" if reason else "done",
        reason=reason,
        main=counts.pop("main"),
        controls=counts,
        info={"model": made["info"]["info"], "implanted": attack, **told},
        provenance=_flat(cost, made["info"]["info"].get("steps")),
        curve=_curve(cell, store),
    )


def _curve(cell: Cell, store: Store) -> tuple[records.Point, ...]:
    """The points of the cell's line, if it has one; all of them lie in one artifact."""
    if (stage := cell.curve()) is None:
        return ()
    sidecar = store.info(stage[0], key_of(*stage))
    return tuple(
        records.Point(
            node["scale"],
            records.evaluation_from({**node["evaluation"], "key": sidecar["key"]}),
        )
        for node in sidecar["info"]["points"]
    )


def _flat(cost: Mapping[str, Mapping[str, Any]], steps: int | None) -> dict[str, Any]:
    """The evaluation's provenance, with seconds, memory and images per second of both stages.

    Where the defence tells of `steps`, also how many it took a second, all else included.
    """
    measured = ("seconds", "peak_memory_mib", "images_per_s", "images")
    common = {name: v for name, v in cost["evaluation"].items() if name not in measured}
    spent = {name: {stage: made.get(name) for stage, made in cost.items()} for name in measured}
    seconds = spent["seconds"]["defense"]
    pace = {"steps_per_s": round(steps / seconds, 3)} if steps and seconds else {}
    return {**common, **spent, **pace}


def _record(
    cell: Cell,
    *,
    status: Status,
    reason: str | None,
    main: records.Evaluation | None = None,
    controls: Mapping[str, records.Evaluation] | None = None,
    info: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    curve: tuple[records.Point, ...] = (),
) -> Record:
    roles = ("attack", "merge", "defense", "stress")
    grants = {name: [str(grant) for grant in getattr(cell, name).needs] for name in roles}
    needs = {name: "; ".join(each) or "weights only" for name, each in grants.items()}
    parents = {
        "base": cell.base_key,
        "experts": cell.expert_keys("attacked"),
        "attack": key_of(*cell.compromise()),
        "model": cell.model_key("main"),
    }
    return Record(
        key=cell.key,
        names=_said(cell, cell.names),
        seed=cell.seed,
        status=status,
        reason=reason,
        config=_said(cell, _config(cell)),
        needs=_said(cell, needs),
        parents=parents,
        main=main,
        controls=dict(controls or {}),
        info=dict(info or {}),
        provenance=dict(provenance or {}),
        curve=curve,
    )


def _said(cell: Cell, groups: Mapping[str, Any]) -> dict[str, Any]:
    """Without stress and adapter where there is none, as records were before these groups were."""
    there = {"stress": cell.stressed("main"), "peft": cell.peft.adapter}
    unsaid = [name for name, part in there.items() if not part]
    return {name: value for name, value in groups.items() if name not in unsaid}


def _config(cell: Cell) -> dict[str, Any]:
    """The resolved values, without data sets that no task of the suite names."""
    config = {name: value for name, value in cell.config.items() if name != "names"}
    return {**config, "dataset": {task: config["dataset"][task] for task in cell.suite.tasks}}
