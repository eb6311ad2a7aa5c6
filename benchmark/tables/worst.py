"""Rows of the worst case: of an attack's strengths or a stress's places, the one that hurts most.

An attacker chooses the strength after seeing the defence, so each defence is shown at the strength
that is worst for it. What does not work on the undefended merge is no attack and is not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmark.tables.metrics import UNDEFENDED
from benchmark.tables.rows import UNSAID, Row, named

NOT_COUNTED = "not counted"


def worst(rows: Sequence[Row], least: float) -> list[Row]:
    """Of the rows of equal names, the one with the highest ASR among those that count.

    Args:
        rows: one per cell, as `benchmark.tables.rows.rows` makes them.
        least: per cent; a row counts if the same attack's undefended ASR is no lower.

    Returns:
        One row per names. Its reason says what became of the others. Where none counts, all
        defences share one row, undefended's if it is there: it has no numbers and says how far the
        attack got.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(named(row.names).values()), []).append(row)
    return _once([_worst(group, least) for group in groups.values()])


def _once(rows: Sequence[Row]) -> list[Row]:
    """Of the rows that are not counted, one per attack, merge and stress."""
    said: dict[tuple[str, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row.names["defense"] != UNDEFENDED):
        if row.status == NOT_COUNTED:
            said.setdefault(_case(row), row)
    return [row for row in rows if row.status != NOT_COUNTED or row is said[_case(row)]]


def _case(row: Row) -> tuple[str, ...]:
    """What an attacker is up to, whatever the defence."""
    return tuple(name for group, name in named(row.names).items() if group != "defense")


def _worst(group: Sequence[Row], least: float) -> Row:
    done = [row for row in group if row.stats]
    strong = [row for row in done if (row.mean("asr_undefended") or 0.0) >= least]
    rest = "; ".join(row.reason for row in group if row.reason)
    if not done:
        return replace(group[0], reason=rest or None)
    if not strong:
        most = max(row.mean("asr_undefended") or 0.0 for row in done)
        why = f"{NOT_COUNTED}: undefended ASR {most:.1f} % at most, below {least:g} %"
        reason = f"{why}; {rest}" if rest else why
        bare = replace(done[0], stats={}, costs={}, records=())
        return replace(bare, status=NOT_COUNTED, reason=reason, variant="")
    hardest = max(strong, key=lambda row: row.mean("asr") or 0.0)
    # Other defences may be shown at another place: their rows are comparable all the same.
    setting = hardest.setting if len({row.setting for row in group}) == 1 else ""
    weak = len(done) - len(strong)
    said = [f"{weak} of {len(done)} variants {NOT_COUNTED}"] if weak else []
    reason = "; ".join([*said, *([rest] if rest else [])]) or None
    status = "partial" if rest else hardest.status
    return replace(hardest, reason=reason, status=status, setting=setting)


def worst_note(rows: Sequence[Row], references: Sequence[str]) -> str:
    """One sentence: each ranked defence's highest ASR over rows that count, and where it was."""
    highest: dict[str, Row] = {}
    for row in rows:
        asr, defense = row.mean("asr"), row.names["defense"]
        if asr is None or defense in references:
            continue
        if defense not in highest or asr > (highest[defense].mean("asr") or 0.0):
            highest[defense] = row
    said = [
        f"{defense} {row.mean('asr'):.1f} ({_where(row)})"
        for defense, row in sorted(highest.items(), key=lambda one: one[1].mean("asr") or 0.0)
    ]
    return f"Worst ASR of each defence over the rows that count: {', '.join(said)}." if said else ""


def _where(row: Row) -> str:
    names = named(row.names)
    after = "" if names["stress"] == UNSAID["stress"] else f" after {names['stress']}"
    return f"{names['attack']}{after}{', ' + row.variant if row.variant else ''}"
