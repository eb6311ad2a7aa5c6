"""Sentences made from the rows: how to read a table, and where its subject is beaten."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmark.tables.layout import Layout
from benchmark.tables.metrics import UNDEFENDED
from benchmark.tables.pooled import shared
from benchmark.tables.rows import DERIVED, UNSAID, Row, named

ANEW = "fresh_trigger"
"""The stress after which every model, the controls too, meets a trigger of its own."""


def dominating(row: Row, rivals: Sequence[Row]) -> list[Row]:
    """Rivals with no higher ASR and no larger CA loss than `row`, one of them strictly better.

    Rows over settings are compared on the settings that both have.
    """
    found = []
    for rival in rivals:
        (its_asr, asr), (its_ca, ca) = _both(rival, row, "asr"), _both(rival, row, "ca")
        if rival is row or asr is None or ca is None or its_asr is None or its_ca is None:
            continue
        if its_asr <= asr and its_ca >= ca and (its_asr, its_ca) != (asr, ca):
            found.append(rival)
    return found


def _both(one: Row, other: Row, metric: str) -> tuple[float | None, float | None]:
    """Two rows' means; of rows over settings, over the settings that both have."""
    if not (one.parts and other.parts):
        return one.mean(metric), other.mean(metric)
    pairs = shared(one, other, metric)
    return (fmean(a for a, _ in pairs), fmean(b for _, b in pairs)) if pairs else (None, None)


def pareto_notes(rows: Sequence[Row], style: Layout) -> list[str]:
    """One footnote per rival that beats the table's subject on ASR and CA alike."""
    notes = []
    for row in rows:
        if row.names["defense"] != style.subject:
            continue
        rivals = [one for one in style.comparable(row, rows) if not _same(one, row)]
        for rival in dominating(row, rivals):
            many = len(shared(rival, row, "asr"))
            on = f" over the {many} settings that both have" if rival.parts else ""
            notes.append(
                f"{place_of(row)}: {label(rival)} is no worse than {label(row)} in ASR and CA and "
                f"better in at least one{on}: ASR {_against(rival, row, 'asr')}, "
                f"CA {_against(rival, row, 'ca')}, target recall "
                f"{_against(rival, row, 'target_recall')} "
                f"(it sees: {rival.sees}; {row.names['defense']} sees: {row.sees})."
            )
    return notes


def _against(rival: Row, row: Row, metric: str) -> str:
    return " against ".join(map(_number, _both(rival, row, metric)))


def reading(rows: Sequence[Row], subject: str = "lfpm") -> list[str]:
    """Three lines that say how to read the table, from its numbers alone.

    Where there are several attacks, merges or variants, they tell of the undefended cell with the
    highest ASR and of the rows that belong to it; the last adds where the subject leaves most.

    Args:
        rows: the table's rows.
        subject: the defence that the third line is about.
    """
    bare = [
        row
        for row in rows
        if row.names["defense"] == UNDEFENDED and row.names["attack"] != "none" and row.stats
    ]
    if not bare:
        return [
            "No undefended attacked cell is done, so nothing can be said of the backdoor yet.",
            f"Rows without numbers: {_unfinished(rows) or 'none'}.",
            f"{subject} cannot be judged without an undefended row.",
        ]
    worst = max(bare, key=lambda row: row.mean("asr") or 0.0)
    beside = [
        row
        for row in rows
        if {**named(row.names), "defense": ""} == {**named(worst.names), "defense": ""}
    ]
    return [
        _survival(worst, len(bare)),
        _baselines(worst, beside, subject),
        _subject(worst, beside, subject) + _elsewhere(rows, beside, subject),
    ]


def _survival(row: Row, cells: int) -> str:
    excess = row.stats.get("asr_excess")
    chosen = f" (the strongest of {cells} undefended cells)" if cells > 1 else ""
    anew = named(row.names)["stress"] == ANEW
    trigger = "a trigger searched anew on each model" if anew else "the same trigger"
    facts = (
        f"{place_of(row)}{chosen}, undefended: ASR {_n(row, 'asr')} %, where {trigger} gets "
        f"{_n(row, 'asr_clean_merge')} % on the clean merge (the floor), {_n(row, 'asr_single')} % "
        f"on the attacker's own model and {_n(row, 'asr_without_attacker')} % without the attacker"
    )
    if excess is None:
        return f"{facts}; without a floor it cannot be said whether the backdoor survives."
    least = excess.mean if excess.low is None else excess.low
    if least <= 0:
        verdict = "the backdoor cannot be told from its floor"
    elif excess.mean >= 50:
        verdict = "the backdoor survives the merge"
    else:
        verdict = "the backdoor survives the merge in part"
    return f"{facts}: {verdict} ({_signed(excess.mean)} points above the floor)."


def _baselines(worst: Row, beside: Sequence[Row], subject: str) -> str:
    others = [row for row in beside if row.names["defense"] not in (UNDEFENDED, subject)]
    done = [row for row in others if row.stats]
    said = [f"{label(row)} ASR {_n(row, 'asr')} at CA {_change(row, worst)}" for row in done]
    said += [f"{label(row)} {row.status}" for row in others if not row.stats]
    if not said:
        return "No other defence stands beside it."
    ranked = [row for row in done if row.names["defense"] not in DERIVED]
    line = f"Against ASR {_n(worst, 'asr')} at CA {_n(worst, 'ca')} undefended: {'; '.join(said)}."
    if not ranked:
        return line
    best = min(ranked, key=lambda row: row.mean("asr") or 0.0)
    return f"{line} The lowest ASR among them is {label(best)}'s, {_n(best, 'asr')} %."


def _subject(worst: Row, beside: Sequence[Row], subject: str) -> str:
    own = [row for row in beside if row.names["defense"] == subject]
    if not own or not own[0].stats:
        why = f"{own[0].status}: {own[0].reason}" if own else "it is not in this table"
        return f"{subject} has no number here ({why})."
    row = own[0]
    left = row.mean("asr_did")
    twin = (
        "" if left is None else f" ({_signed(left)} points from the equally defended clean merge)"
    )
    line = (
        f"{label(row)}: ASR {_n(worst, 'asr')} → {_n(row, 'asr')} %{twin}, "
        f"CA {_n(worst, 'ca')} → {_n(row, 'ca')} ({_change(row, worst)}), target recall "
        f"{_n(worst, 'target_recall')} → {_n(row, 'target_recall')}, triggered images "
        f"recognised {_n(worst, 'triggered_acc')} → {_n(row, 'triggered_acc')} % "
        f"(clean merge {_n(row, 'triggered_acc_clean_merge')} %)"
    )
    rivals = [one for one in beside if one.names["defense"] not in (*DERIVED, UNDEFENDED, subject)]
    beaten = ", ".join(label(one) for one in dominating(row, rivals))
    said = (
        f"{beaten} does no worse in both ASR and CA"
        if beaten
        else "no other row of this case does as well in both ASR and CA"
    )
    return f"{line}; {said}.{_avoided(worst, row)}"


def _elsewhere(rows: Sequence[Row], beside: Sequence[Row], subject: str) -> str:
    """Where the subject's ASR is highest, unless it is here."""
    own = [row for row in rows if row.names["defense"] == subject and row.mean("asr") is not None]
    if not own:
        return ""
    most = max(own, key=lambda row: row.mean("asr") or 0.0)
    if any(_n(most, "asr") == _n(row, "asr") for row in beside if row.names["defense"] == subject):
        return ""
    return (
        f" Its highest ASR in this table is {_n(most, 'asr')} %: {label(most)}, {place_of(most)}."
    )


def _avoided(worst: Row, row: Row) -> str:
    """A warning where the target class is recognised clearly less often than undefended."""
    before, after = worst.mean("target_recall"), row.mean("target_recall")
    if before is None or after is None or before - after <= 5:
        return ""
    return " Part of its low ASR may come from predicting the target class less often."


def _change(row: Row, worst: Row) -> str:
    ours, theirs = row.mean("ca"), worst.mean("ca")
    return "unknown" if ours is None or theirs is None else _signed(ours - theirs)


def _unfinished(rows: Sequence[Row]) -> str:
    return "; ".join(f"{label(row)} {row.status}" for row in rows if not row.stats)


def _same(one: Row, other: Row) -> bool:
    return one.names["defense"] == other.names["defense"]


def place_of(row: Row) -> str:
    """Attack, merge and stress of a row, in words."""
    stress = named(row.names)["stress"]
    after = "" if stress == UNSAID["stress"] else f" after {stress}"
    return f"{row.names['attack']} x {row.names['merge']}{after}"


def label(row: Row) -> str:
    """The defence, and the values that tell it from others of its name."""
    return row.names["defense"] + (f" ({row.variant})" if row.variant else "")


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # The sum turns -0.0 into 0.0.


def _n(row: Row, metric: str) -> str:
    return _number(row.mean(metric))


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"
