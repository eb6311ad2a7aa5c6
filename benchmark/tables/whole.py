"""Whether a table is whole: what its experiments plan, and what of it has a record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.records import Record
from benchmark.tables.rows import NAMES, named, setting_of

Planned = Mapping[str, Any]
"""Names, seed and setting of a cell that ought to be there, as far as they are given."""
Address = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a table consists of when all is done.

    Attributes:
        cells: every cell that is planned.
        absent: those without a record.
    """

    cells: tuple[Planned, ...] = ()
    absent: tuple[Planned, ...] = ()


def compared(cells: Iterable[Planned], records: Iterable[Record]) -> Plan:
    """The plan beside what there is, by names, setting and seed.

    Cells that share these (an experiment may sweep a patch size besides) count by their number:
    records need not be of today's version of a component to stand in a table.
    """
    left = Counter(_address(one.names, one.seed, setting_of(one.config)) for one in records)
    planned, absent = tuple(cells), list[Planned]()
    for cell in planned:
        at = _address(cell, cell.get("seed", 0), cell.get("setting", ""))
        if left[at]:
            left[at] -= 1
        else:
            absent.append(cell)
    return Plan(planned, tuple(absent))


def _address(names: Mapping[str, Any], seed: int, setting: str) -> Address:
    return (*named(names).values(), setting, seed)


def unfinished(plan: Plan, *, over_settings: bool) -> str:
    """One sentence on what is missing; "" if nothing is, or nothing is planned.

    Args:
        plan: of the table.
        over_settings: whether a row of the table is a mean over settings.
    """
    if not plan.absent:
        return ""
    gone = {id(cell) for cell in plan.absent}
    there = [cell for cell in plan.cells if id(cell) not in gone]
    said = f"Not whole: {len(there)} of {len(plan.cells)} planned cells have a record"
    if over_settings:
        done, every = (len({_where(cell) for cell in cells}) for cells in (there, plan.cells))
        said += f", at {done} of {every} settings" if done < every else ""
    rows = _rows(plan.cells, there, over_settings=over_settings)
    return f"{said}{f'; rows without any: {rows}' if rows else ''}."


def _where(cell: Planned) -> tuple[str, str]:
    return named(cell)["attack"], cell.get("setting", "")


def _rows(planned: Sequence[Planned], there: Sequence[Planned], *, over_settings: bool) -> str:
    """The rows of which nothing is there, by the names in which the planned ones differ."""
    groups = [one for one in NAMES if one != "attack" or not over_settings]
    varying = [one for one in groups if len({named(cell)[one] for cell in planned}) > 1]

    def row(cell: Planned) -> tuple[str, ...]:
        return tuple(named(cell)[one] for one in varying)

    known = {row(cell) for cell in there}
    asked: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
    for each in dict.fromkeys(one for one in map(row, planned) if one):
        *outer, last = each
        asked.setdefault(" x ".join(outer), []).append(last)
        if each not in known:
            absent.setdefault(" x ".join(outer), []).append(last)
    # Those that lack the same rows are said in one.
    alike: dict[str, list[str]] = {}
    for outer, ones in absent.items():
        said = "all" if outer and len(ones) == len(asked[outer]) > 1 else ", ".join(ones)
        alike.setdefault(said, []).append(outer)
    return "; ".join(
        ones if outers == list(asked) else f"{', '.join(outers)}: {ones}"
        for ones, outers in alike.items()
    )
