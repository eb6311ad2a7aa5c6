"""`lfpm-bench tables`: what a store or a folder of records has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from benchmark.tables.rows import NAMES, measured_on

Made = tuple[list[Record], Sequence[Mapping[str, Any]], layouts.Hits, layouts.Plan]
"""The records that are there, the cells that get rows if they are not, the kept hits, the plan."""


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


def table(
    name: str, words: Sequence[str], folders: Sequence[Path], *, partial: bool
) -> layouts.Table:
    """The table of the experiment of the same name.

    Args:
        name: of a table and of its experiment.
        words: further Hydra words the experiment was run with (e.g. seed=0,1,2).
        folders: take every record in these instead of the planned ones in the store; one that
            holds folders of several tables stands for those that this table asks for.
        partial: show missing cells as rows instead of refusing (of folders: of only counting them).
    """
    return layouts.make(name, *gathered(name, words, folders, partial=partial))


def gathered(name: str, words: Sequence[str], folders: Sequence[Path], *, partial: bool) -> Made:
    """What a table is made of; arguments as in `table`."""
    style = layouts.layout(name)
    if folders:
        return _adopted(name, words, [_there(one) for one in folders], partial=partial)
    cells, store = _all_planned(style.experiments or (name,), words)
    cells = [cell for cell in cells if style.rows.shows(cell.names)]
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
    hits = layouts.find_hits(store.root, found)
    names = [names_of(cell) for cell in cells]
    return found, names, hits, _plan(name, cells, found)


def _adopted(name: str, words: Sequence[str], given: Sequence[Path], *, partial: bool) -> Made:
    """What is in folders of records, beside what the table's experiments plan."""
    style, folders = layouts.layout(name), layouts.folders(name, given)
    found, hits = layouts.gather(folders)
    if not found and not partial:
        told = ", ".join(map(str, folders))
        raise BenchError(f"--records={told}: no KEY.json is in it, nor in `records` below it")
    cells: list[Cell] = []
    if partial or folders != given:  # a folder of one sweep's records, named directly, is the whole
        cells, _ = _all_planned(style.experiments or (name,), words)
    plan = _plan(name, [cell for cell in cells if style.rows.shows(cell.names)], found)
    # By their keys, records of an earlier version of a component would be missing.
    absent = [{**cell, "key": None} for cell in plan.absent] if partial else []
    return found, absent, hits, plan


def _plan(name: str, cells: Sequence[Cell], found: Sequence[Record]) -> layouts.Plan:
    shown = [one for one in found if measured_on(one) == layouts.layout(name).evaluate]
    return layouts.compared(map(names_of, cells), shown)


def _there(folder: Path) -> Path:
    """A folder that the user named; one sentence where there is none."""
    if not folder.expanduser().is_dir():
        wrong = "is a file, not a folder" if folder.expanduser().exists() else "does not exist"
        raise BenchError(f"--records={folder} {wrong}; name a folder of records")
    return folder


def adopt(name: str, words: Sequence[str], folder: Path) -> None:
    """Copy the records of a table's experiments from the store into a folder."""
    cells, store = _all_planned(layouts.layout(name).experiments or (name,), words)
    keep(present(cells, store), store, folder)


def keep(found: Sequence[Record], store: Store, folder: Path) -> None:
    """Copy records, and the per-image hits of their models, from the store into a folder."""
    for record in found:
        write(folder, record)
    layouts.adopt_hits(found, store.root, folder)


def tables(
    name: str,
    words: Sequence[str],
    formats: Sequence[str],
    folders: Sequence[Path],
    *,
    partial: bool,
) -> dict[str, str]:
    """Format -> rendered text."""
    renderers = {form: layouts.renderer(form) for form in formats}
    made = table(name, words, folders, partial=partial)
    return {form: rendered(made) for form, rendered in renderers.items()}


def names_of(cell: Cell) -> dict[str, Any]:
    """How tables and reports call a cell: its components, seed, setting and key."""
    names = {name: cell.names[name] for name in NAMES}
    return {**names, "seed": cell.seed, "setting": layouts.setting_of(cell.config), "key": cell.key}
