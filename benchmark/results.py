"""`lfpm-bench tables` and `status`: what a store or a folder of records has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import config
from benchmark import tables as layouts
from benchmark.cell import Cell, cell_from
from benchmark.components import options
from benchmark.errors import BenchError, nearest
from benchmark.pipeline import record_path
from benchmark.records import Record, read, write
from benchmark.store import Store
from benchmark.tables.rows import NAMES


def planned(experiment: str, words: Sequence[str]) -> tuple[list[Cell], Store]:
    """The cells an experiment consists of, and the store they belong in."""
    known = options("experiment")
    if experiment not in known:
        raise BenchError(f"unknown experiment '{experiment}'{nearest(experiment, known)}")
    plan = config.plan(["-m", f"experiment={experiment}", *words])
    if plan is None:
        raise BenchError(f"the words {' '.join(words)!r} name no cells")
    distinct = {cell.key: cell for cell in map(cell_from, plan.configs)}
    return list(distinct.values()), Store(plan.runtime["store"])


def _all_planned(experiments: Sequence[str], words: Sequence[str]) -> tuple[list[Cell], Store]:
    """The cells of several experiments, each once, and the store they belong in."""
    plans = [planned(one, words) for one in experiments]
    distinct = {cell.key: cell for cells, _ in plans for cell in cells}
    return list(distinct.values()), plans[0][1]


def present(cells: Sequence[Cell], store: Store) -> list[Record]:
    """The records of these cells that exist, whatever their status."""
    paths = [record_path(store, cell.key) for cell in cells]
    return [read(path) for path in paths if path.exists()]


def status(experiment: str, words: Sequence[str], *, as_json: bool) -> str:
    """How many of an experiment's cells are done, and what became of the others."""
    cells, store = planned(experiment, words)
    asked = [(cell.key, _names(cell)) for cell in cells]
    report = layouts.status(asked, present(cells, store))
    return json.dumps(report, indent=1) if as_json else layouts.status_text(report).rstrip("\n")


def table(name: str, words: Sequence[str], folder: Path | None, *, partial: bool) -> layouts.Table:
    """The table of the experiment of the same name.

    Args:
        name: of a table and of its experiment.
        words: further Hydra words the experiment was run with (e.g. seed=0,1,2).
        folder: take every record in this folder instead of the planned ones in the store.
        partial: show missing cells as rows instead of refusing.
    """
    return layouts.make(name, *gathered(name, words, folder, partial=partial))


def gathered(
    name: str, words: Sequence[str], folder: Path | None, *, partial: bool
) -> tuple[list[Record], list[dict[str, Any]]]:
    """What a table is made of: the records that are there, and the cells that were planned.

    Arguments as in `table`; of a folder nothing is planned.
    """
    style = layouts.layout(name)
    if folder is not None:
        return layouts.find(folder), []
    cells, store = _all_planned(style.experiments or (name,), words)
    found = present(cells, store)
    absent = len(cells) - len(found)
    if absent and not partial:
        asked = [
            " ".join(["lfpm-bench run -m", f"experiment={one}", *words])
            for one in style.experiments or (name,)
        ]
        raise BenchError(
            f"{absent} of {len(cells)} cells of '{name}' have no record in {store.root}: "
            f"run `{'` and `'.join(asked)}`, or pass --partial"
        )
    return found, [_names(cell) for cell in cells]


def adopt(name: str, words: Sequence[str], folder: Path) -> None:
    """Copy the records of a table's experiments from the store into a folder."""
    for record in present(*_all_planned(layouts.layout(name).experiments or (name,), words)):
        write(folder, record)


def tables(
    name: str,
    words: Sequence[str],
    formats: Sequence[str],
    folder: Path | None,
    *,
    partial: bool,
) -> dict[str, str]:
    """Format -> rendered text."""
    made = table(name, words, folder, partial=partial)
    return {form: layouts.render(made, form).rstrip("\n") for form in formats}


def _names(cell: Cell) -> dict[str, Any]:
    names = {name: cell.names[name] for name in NAMES}
    return {**names, "seed": cell.seed, "setting": layouts.setting_of(cell.config), "key": cell.key}
