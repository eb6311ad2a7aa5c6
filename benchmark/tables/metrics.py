"""The numbers of one record, in per cent; docs/protocol.md has the formulas in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from benchmark.errors import BenchError
from benchmark.records import Count, Evaluation, Point, Record
from benchmark.tables.stats import Measure, Terms, combine

UNDEFENDED = "none"
DROPS = (1, 3, 5)
"""Points of CA at whose loss defences are compared as curves."""
METRICS = (
    "ca",
    "ca_clean_merge",
    "ca_pretrained",
    "ca_drop",
    "ca_worst",
    "kept",
    "ca_drop_clean",
    "ca_worst_clean",
    "asr",
    "asr_undefended",
    "asr_clean_merge",
    "asr_defended_clean_merge",
    "asr_excess",
    "asr_did",
    "asr_pretrained",
    "asr_single",
    "asr_without_attacker",
    "target_recall",
    "target_recall_undefended",
    "recall_drop",
    "triggered_acc",
    "triggered_acc_clean_merge",
    "triggered_drop",
    "target_rate",
    "flip_rate",
    "misclassified",
    *(f"asr_at_{drop}" for drop in DROPS),
)
DIFFERENCES = (
    "ca_drop",
    "ca_worst",
    "ca_drop_clean",
    "ca_worst_clean",
    "asr_excess",
    "asr_did",
    "recall_drop",
    "triggered_drop",
    "flip_rate",
)
"""Of METRICS, those that are one rate less another."""
RATES = tuple(name for name in METRICS if name not in (*DIFFERENCES, "kept"))
"""Those that are a rate or a mean of rates; `kept` alone is neither."""
COSTS = ("images", "labels", "passes", "seconds")
SAID = ("lambda_a", "captured")
"""What a method tells of itself: the scale it chose, the share of the shift's energy in P_a."""
BESIDE = (*COSTS, *SAID)
"""Numbers of a row that were not measured on test images."""


def measures(record: Record) -> dict[str, Measure | None]:
    """Every metric of a computed record; None where the control it needs is absent.

    Of several threats, the row's numbers are those of one: the threat with the highest ASR in the
    row, the first of equals, in the row and its controls alike. `asr_single` alone is the highest
    over threats, since one attacker's model does not carry another's.
    """
    main, controls = record.main, _controls(record)
    clean, undefended = controls.get("clean_merge"), controls.get("undefended")
    base, twin = controls.get("pretrained"), controls.get("defended_clean_merge")
    return {
        "ca": _of(_clean(main)),
        "ca_clean_merge": _of(_clean(clean)),
        "ca_pretrained": _of(_clean(base)),
        "ca_drop": _of(_minus(_clean(undefended), _clean(main))),
        "ca_worst": _worst(undefended, main),
        "kept": _kept(main, undefended, base),
        "ca_drop_clean": _of(_minus(_clean(clean), _clean(twin))),
        "ca_worst_clean": _worst(clean, twin),
        **_under_threat(main, controls),
        **{f"asr_at_{drop}": _asr_at(record.curve, drop) for drop in DROPS},
    }


def _under_threat(
    main: Evaluation | None, controls: Mapping[str, Evaluation]
) -> dict[str, Measure | None]:
    """The metrics that ask what a trigger does, of the row's worst threat."""
    worst = worst_threat(main)
    base, single = controls.get("pretrained"), controls.get("attacker_single")
    undefended, without = controls.get("undefended"), controls.get("without_attacker")

    def count(evaluation: Evaluation | None, field: str) -> Terms | None:
        return _threat(evaluation, worst, field)

    asr, floor = count(main, "asr"), count(controls.get("clean_merge"), "asr")
    left = count(controls.get("defended_clean_merge"), "asr")
    recall = count(main, "target_recall"), count(undefended, "target_recall")
    acc = count(main, "triggered_acc"), count(controls.get("clean_merge"), "triggered_acc")
    flips = _pooled(main, worst, "flipped"), _pooled(main, worst, "flipped_shuffled")
    return {
        "asr": _of(asr),
        "asr_undefended": _of(_threat(undefended, worst_threat(undefended), "asr")),
        "asr_clean_merge": _of(floor),
        "asr_excess": _of(_minus(asr, floor)),
        "asr_defended_clean_merge": _of(left),
        "asr_did": _of(_minus(asr, left)),
        "asr_pretrained": _of(count(base, "asr")),
        "asr_single": _of(_threat(single, worst_threat(single), "asr")),
        "asr_without_attacker": _of(count(without, "asr")),
        "target_recall": _of(recall[0]),
        "target_recall_undefended": _of(recall[1]),
        "recall_drop": _of(_minus(recall[1], recall[0])),
        "triggered_acc": _of(acc[0]),
        "triggered_acc_clean_merge": _of(acc[1]),
        "triggered_drop": _of(_minus(acc[1], acc[0])),
        "target_rate": _of(count(main, "target_rate")),
        "flip_rate": _of(_minus(*flips)),
        "misclassified": _of(count(main, "misclassified")),
    }


def ends(metric: str) -> tuple[float, float]:
    """The least and the largest value that a metric can have, in per cent."""
    if metric in RATES:
        return 0.0, 100.0
    return (-100.0, 100.0) if metric in DIFFERENCES else (-inf, inf)


def costs(record: Record) -> dict[str, float | None]:
    """What the row cost: images and labels seen, image passes, seconds.

    The first three are what the row's model says of itself in `info["model"]`; the last is
    `provenance["seconds"]`, a number or a mapping of stages.
    """
    told: Mapping[str, Any] = record.info.get("model") or {}
    seconds = record.provenance.get("seconds")
    if isinstance(seconds, Mapping):
        known = [part for part in seconds.values() if part is not None]
        seconds = sum(known) if known else None
    return {**{name: told.get(name) for name in COSTS[:3]}, "seconds": seconds}


def said(record: Record) -> dict[str, float | None]:
    """What the row's model says of itself in `info["model"]`; None where it says nothing."""
    told: Mapping[str, Any] = record.info.get("model") or {}
    return {name: told.get(name) for name in SAID}


def _controls(record: Record) -> dict[str, Evaluation]:
    """The record's controls, checked to carry the same threats as the row.

    Undefended, the equally defended clean merge is the clean merge and the row is its own
    `undefended`; both hold by definition, so a record need not repeat them.
    """
    if record.main is None:
        raise ValueError(f"record {record.key} has no evaluation")
    controls = dict(record.controls)
    if record.names["defense"] == UNDEFENDED:
        controls.setdefault("undefended", record.main)
        if "clean_merge" in controls:
            controls.setdefault("defended_clean_merge", controls["clean_merge"])
    asked = _targets(record.main)
    for name, control in controls.items():
        if _targets(control) != asked:
            raise BenchError(
                f"record {record.key}: its control '{name}' has other threats than its row "
                f"({_targets(control)} against {asked}); delete it and run its cell again"
            )
    return controls


def _targets(evaluation: Evaluation) -> list[tuple[str, int]]:
    return [(threat.task, threat.target) for threat in evaluation.threats]


def _of(terms: Terms | None) -> Measure | None:
    return None if terms is None else combine(terms)


def _clean(evaluation: Evaluation | None) -> Terms | None:
    if evaluation is None or not evaluation.clean:
        return None
    counts = list(evaluation.clean.values())
    return [(1 / len(counts), count) for count in counts]


def worst_threat(evaluation: Evaluation | None) -> int:
    """Place of the threat with the highest ASR."""
    if evaluation is None or not evaluation.threats:
        return 0
    # A count of 0/0 has no rate; it is then the only threat's, or no worse than another.
    rates = [threat.asr.rate if threat.asr.total else 0.0 for threat in evaluation.threats]
    return rates.index(max(rates))


def _threat(evaluation: Evaluation | None, place: int, field: str) -> Terms | None:
    if evaluation is None or not evaluation.threats:
        return None
    return [(1.0, getattr(evaluation.threats[place], field))]


def _pooled(evaluation: Evaluation | None, place: int, field: str) -> Terms | None:
    # Over tasks the images are pooled: a task with few correct ones must not weigh as much.
    if evaluation is None or not evaluation.threats:
        return None
    counts = list(getattr(evaluation.threats[place], field).values())
    return [(1.0, Count(sum(one.hits for one in counts), sum(one.total for one in counts)))]


def _minus(left: Terms | None, right: Terms | None) -> Terms | None:
    if left is None or right is None:
        return None
    if left == right:  # A model minus itself is 0, with certainty.
        return []
    return [*left, *((-weight, count) for weight, count in right)]


def _worst(undefended: Evaluation | None, main: Evaluation | None) -> Measure | None:
    if undefended is None or main is None or not main.clean:
        return None
    losses = [100 * (undefended.clean[task].rate - one.rate) for task, one in main.clean.items()]
    # No interval: the task was chosen for being the worst.
    return Measure(max(losses))


def line(curve: Sequence[Point]) -> list[tuple[float, float, float]]:
    """(s, CA lost since the first point, ASR) of every point, in per cent."""
    found = [
        (point.scale, _of(_clean(one)), _of(_threat(one, worst_threat(one), "asr")))
        for point in curve
        for one in [point.evaluation]
    ]
    points = [(s, ca.value, asr.value) for s, ca, asr in found if ca and asr]
    return [(s, points[0][1] - ca, asr) for s, ca, asr in points]


def _asr_at(curve: Sequence[Point], drop: float) -> Measure | None:
    """The lowest ASR on the line among the points that lose at most `drop` points of CA."""
    # No interval: the point was chosen for being the lowest.
    within = [asr for _, lost, asr in line(curve) if lost <= drop + 1e-9]
    return Measure(min(within)) if within else None


def _kept(
    main: Evaluation | None, undefended: Evaluation | None, base: Evaluation | None
) -> Measure | None:
    row, merge, zero_shot = (_of(_clean(one)) for one in (main, undefended, base))
    if row is None or merge is None or zero_shot is None or merge.value <= zero_shot.value:
        return None
    return Measure(100 * (row.value - zero_shot.value) / (merge.value - zero_shot.value))
