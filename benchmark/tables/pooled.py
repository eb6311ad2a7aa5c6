"""Rows pooled over settings: the mean and the worst of what each defence does where nobody tuned.

A setting is an attack with its adversary, target class and trigger place. Every setting weighs the
same, however many seeds it has, and intervals come from drawing whole settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from benchmark.store import canonical
from benchmark.tables.alike import telling
from benchmark.tables.metrics import BESIDE, METRICS
from benchmark.tables.rows import UNSAID, Row, differing, named
from benchmark.tables.stats import Stat, over_settings

AGAINST = {"asr_against": "asr", "ca_against": "ca"}
"""Metrics of a pooled row against the subject on the settings that both have: name -> of what."""
NAMED = 3
"""So many settings that are not done for one reason are named, more are counted."""
Place = tuple[str, ...]
"""Every name that is said but the defence's, the attack's last, and the setting."""
Settings = Mapping[tuple[str, str], Sequence[Row]]
"""(attack, setting) -> its rows: one, or several if more than adversary, target, place varies."""


def too_weak(rows: Sequence[Row], least: float) -> set[Place]:
    """Where the undefended ASR, the mean over rows, is below `least` per cent."""
    found: dict[Place, list[Row]] = {}
    for row in rows:
        found.setdefault(place(row), []).append(row)
    undefended = {at: value(ones, "asr_undefended") for at, ones in found.items()}
    return {at for at, asr in undefended.items() if asr is not None and asr < least}


def place(row: Row) -> Place:
    """Where a row that is not pooled was measured."""
    said = {name: value for name, value in named(row.names).items() if value != UNSAID.get(name)}
    names = {name: value for name, value in said.items() if name != "defense"}
    attack = names.pop("attack")
    return (*names.values(), attack, row.setting)


def pooled(rows: Sequence[Row], subject: str) -> list[Row]:
    """One row per names but the attack, and values; its settings are its parts.

    Args:
        rows: one per cell, as `benchmark.tables.rows.rows` makes them.
        subject: the defence that the others are compared with.
    """
    attacks = ", ".join(sorted({row.names["attack"] for row in rows}))
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: not row.config):
        config = {name: value for name, value in row.config.items() if name != "attack"}
        # What was not run yet comes last and knows no values: it goes where its names are.
        same = [] if config else [key for key, one in groups.items() if _kind(one[0]) == _kind(row)]
        key = same[0] if same else canonical([_kind(row), telling(config)])
        groups.setdefault(key, []).append(replace(row, config=config))
    firsts = [group[0] for group in groups.values()]
    variants = differing([(_kind(row), row.config) for row in firsts])
    made = [
        _pool(group, attacks, variant)
        for group, variant in zip(groups.values(), variants, strict=True)
    ]
    return [_compared(row, made, subject) for row in made]


def settings(row: Row) -> Settings:
    """The settings that a pooled row counts."""
    found: dict[tuple[str, str], list[Row]] = {}
    for part in row.parts:
        if part.stats:
            found.setdefault((part.names["attack"], part.setting), []).append(part)
    return found


def value(parts: Sequence[Row], metric: str) -> float | None:
    """A setting's number: the mean of its rows, which are means over seeds."""
    known = [mean for part in parts if (mean := part.mean(metric)) is not None]
    return fmean(known) if known else None


def shared(row: Row, other: Row, metric: str) -> list[tuple[float, float]]:
    """Both rows' numbers on every setting where both have one."""
    ours, theirs = settings(row), settings(other)
    pairs = [(value(ours[at], metric), value(theirs[at], metric)) for at in ours if at in theirs]
    return [(one, two) for one, two in pairs if one is not None and two is not None]


def _pool(group: Sequence[Row], attacks: str, variant: str) -> Row:
    names = {**group[0].names, "attack": attacks}
    bare = Row(names, variant, "done", None, parts=tuple(group))
    counted = settings(bare)
    numbers = {name: [value(parts, name) for parts in counted.values()] for name in METRICS}
    known = {name: [one for one in ones if one is not None] for name, ones in numbers.items()}
    done = [row for row in group if row.stats]
    rest = [row for row in group if row.status != "done"]
    return replace(
        bare,
        status="done" if not rest else "partial" if done else rest[0].status,
        reason=_reasons(rest) or None,
        seeds=tuple(sorted({seed for row in done for seed in row.seeds})),
        needs=(done or group)[0].needs,
        stats={name: over_settings(ones) for name, ones in known.items() if ones},
        costs={name: _mean([row.costs.get(name) for row in done]) for name in BESIDE},
    )


def _reasons(rest: Sequence[Row]) -> str:
    """Why rows are not done; where many share a reason, how many."""
    where: dict[str, list[str]] = {}
    for row in rest:
        where.setdefault(row.reason or row.status, []).append(
            f"{row.names['attack']} {row.setting}"
        )
    return "; ".join(
        f"{', '.join(ones) if len(ones) <= NAMED else f'{len(ones)} settings'}: {reason}"
        for reason, ones in where.items()
    )


def _compared(row: Row, made: Sequence[Row], subject: str) -> Row:
    """The row with its difference to the subject's one row beside it."""
    theirs = [other for other in made if _kind(other) == {**_kind(row), "defense": subject}]
    if len(theirs) != 1 or theirs[0] is row:
        return row
    stats = {name: _difference(row, theirs[0], metric) for name, metric in AGAINST.items()}
    return replace(row, stats={**row.stats, **{k: v for k, v in stats.items() if v is not None}})


def _difference(row: Row, other: Row, metric: str) -> Stat | None:
    """Mean of row minus other over the settings that both have; the bootstrap draws settings."""
    known = [one - two for one, two in shared(row, other, metric)]
    return over_settings(known) if known else None


def _kind(row: Row) -> dict[str, str]:
    return {**named(row.names), "attack": ""}


def _mean(numbers: Sequence[float | None]) -> float | None:
    known: list[Any] = [number for number in numbers if number is not None]
    return fmean(known) if known and len(known) == len(numbers) else None
