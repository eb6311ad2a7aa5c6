"""Curves of a cell as rows of a W&B history: every section has an axis of its own. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

from benchmark.history import Series
from benchmark.records import Evaluation, Record

Curves: TypeAlias = "Mapping[str, Mapping[str, Series]]"
"""Section -> name -> points."""
Line: TypeAlias = "dict[str, float]"
"""One row: metric -> number."""

AXES = {
    "experts": "experts/step",
    "attack": "attack/step",
    "defense": "defense/step",
    "selection": "selection/at",
    "line": "line/scale",
}
"""Section -> the metric on its horizontal axis.

experts: loss of every contributor, by task. attack, defense: what they measured at their steps.
selection: the clean criterion of a defence, in [0,1], at its steps or scales. line: CA and ASR in
per cent on the line from undefended (0) to defended (1).
"""


def lines(record: Record, curves: Curves) -> list[Line]:
    """All rows, section after section; where nothing was measured there is no row.

    Args:
        record: with the selection and the line.
        curves: of the stages behind it, for the sections experts, attack and defense.
    """
    sections = {**curves, "selection": _selection(record.info.get("model") or {})}
    found = [row for name, series in sections.items() for row in _section(name, series)]
    return [*found, *_line(record)]


def _section(section: str, series: Mapping[str, Series]) -> Iterator[Line]:
    rows: dict[float, Line] = {}
    for name, points in series.items():
        for at, value in points:
            if at is not None and value is not None:
                rows.setdefault(at, {AXES[section]: at})[f"{section}/{name}"] = value
    return (rows[at] for at in sorted(rows))


def _selection(info: Mapping[str, Any]) -> dict[str, Series]:
    """What a defence says it selected by: lists of [step or scale, number], or LFPM's trials."""
    pairs = {name: value for name, value in info.items() if _is_series(value)}
    chosen = info.get("selection")
    trials = chosen.get("trials", ()) if isinstance(chosen, Mapping) else ()
    for trial in trials:
        for name in trial.keys() - {"scale"}:
            pairs.setdefault(name, []).append([trial["scale"], trial[name]])
    return pairs


def _is_series(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and bool(value)
        and all(
            isinstance(point, Sequence)
            and not isinstance(point, str)
            and len(point) == 2
            and all(isinstance(one, Real) for one in point)
            for point in value
        )
    )


def _line(record: Record) -> Iterator[Line]:
    for point in record.curve:
        yield {AXES["line"]: point.scale, **_rates(point.evaluation)}


def _rates(found: Evaluation) -> Line:
    """CA, and of the worst threat ASR and the target's recall, in per cent."""
    clean = [count.rate for count in found.clean.values() if count.total]
    asr = [threat.asr.rate for threat in found.threats if threat.asr.total]
    recall = [one.target_recall.rate for one in found.threats if one.target_recall.total]
    shares = {
        "ca": sum(clean) / len(clean) if clean else None,
        "asr": max(asr, default=None),
        "target_recall": min(recall, default=None),
    }
    return {f"line/{name}": 100 * share for name, share in shares.items() if share is not None}
