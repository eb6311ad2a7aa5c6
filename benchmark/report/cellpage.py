"""A page of its own for a cell: numbers, controls, curves, tasks, command, values, logs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import yaml

from benchmark.components import locate, option, options
from benchmark.records import Count, Evaluation, Record
from benchmark.replay import command
from benchmark.report.entries import Entry
from benchmark.report.panels import curves, large, per_task, rates
from benchmark.report.parts import curve_words
from benchmark.tables.metrics import COSTS, METRICS
from benchmark.tables.rows import UNSAID, Row, named
from benchmark.tables.stats import Stat
from benchmark.tables.table import ABSENT, number

WORDS = {
    "ca": "clean accuracy (CA)",
    "ca_clean_merge": "CA of the clean merge",
    "ca_pretrained": "CA of the pre-trained model",
    "ca_drop": "CA lost against undefended",
    "ca_worst": "largest loss of a single task",
    "kept": "share of the merge's gain that is kept",
    "asr": "attack success rate (ASR)",
    "asr_undefended": "ASR undefended",
    "asr_clean_merge": "ASR on the clean merge (floor)",
    "asr_defended_clean_merge": "ASR on the equally defended clean merge",
    "asr_excess": "ASR above the floor",
    "asr_did": "ASR above the equally defended clean merge",
    "target_recall": "recall of the target class",
    "target_rate": "goes to the target without a trigger",
    "triggered_acc": "triggered images recognised",
    "flip_rate": "other tasks' predictions that the trigger flips",
    "misclassified": "triggered images misclassified",
    "asr_at_1": "lowest ASR at a CA loss of 1 point",
    "asr_at_3": "lowest ASR at a CA loss of 3 points",
    "asr_at_5": "lowest ASR at a CA loss of 5 points",
}
"""Metrics that are shown, in words; docs/protocol.md has the formulas."""
MODELS = {
    "main": "this model",
    "undefended": "undefended",
    "clean_merge": "clean merge",
    "defended_clean_merge": "equally defended clean merge",
    "without_attacker": "merge without the attacker",
    "attacker_single": "attacker's own model",
    "honest_single": "the same contributor, honest",
    "pretrained": "pre-trained model",
}
COMPARED = ("main", "undefended", "clean_merge", "pretrained")
"""Models whose accuracy is shown per task."""


def content(entry: Entry) -> dict[str, Any]:
    """What the template shows of a cell, but for pictures, diagnoses and logs."""
    row, first = entry.row, entry.records[0]
    return {
        "entry": entry,
        "title": title(row),
        "names": [(name, value) for name, value in named(row.names).items() if shown(name, value)],
        "headline": headline(row),
        "numbers": numbers(row),
        "costs": [f"{cost:,.0f} {name}" for name in COSTS if (cost := row.costs.get(name))],
        "commands": [(record, command(record)) for record in entry.records],
        "models": models(entry),
        "curve": curve(entry),
        "tasks": tasks(entry),
        "threat": threat_model(row.names["attack"]),
        "needs": list(first.needs.items()),
        "config": as_yaml(first.config),
        "told": [(one.seed, as_yaml(one.info)) for one in entry.records if one.info],
        "made": made(entry.records),
    }


def title(row: Row) -> str:
    """The cell in words."""
    names = named(row.names)
    after = "" if names["stress"] == UNSAID["stress"] else f", then {names['stress']}"
    return f"{names['defense']} after {names['merge']} of {names['attack']}{after}"


def signed(text: str) -> str:
    """A number's text with a minus of its own width."""
    return text.replace("-", "−")


def shown(name: str, value: str) -> bool:
    """Whether a name says anything."""
    return bool(value) and value != UNSAID.get(name)


def headline(row: Row) -> list[tuple[str, str, str]]:
    """The four numbers to see first: (what, its value, its spread)."""
    keys = {"ca": "CA %", "asr": "ASR %", "asr_clean_merge": "floor %", "target_recall": "recall %"}
    return [(words, *value_and_spread(row.stats.get(key))) for key, words in keys.items()]


def value_and_spread(stat: Stat | None) -> tuple[str, str]:
    """Mean, and the deviation over seeds or the interval of one."""
    if stat is None:
        return ABSENT, ""
    mean = signed(number(stat.mean, 1))
    if stat.sd is not None:
        return mean, f"± {number(stat.sd, 1)}"
    if stat.low is None:
        return mean, ""
    return mean, signed(f"[{number(stat.low, 1)}, {number(stat.high, 1)}]")


def numbers(row: Row) -> list[tuple[str, str, str, str, list[str]]]:
    """Per metric: field, words, value, spread, and the number of each seed."""
    return [
        (
            metric,
            WORDS[metric],
            *value_and_spread(stat),
            [signed(number(one, 1)) for one in stat.values]
            if len(stat.values) == len(row.seeds)
            else [],
        )
        for metric in METRICS
        if metric in WORDS and (stat := row.stats.get(metric)) is not None
    ]


def models(entry: Entry) -> list[tuple[str, str, str, str, str]]:
    """Per model: CA, ASR, recall and triggered accuracy, means over seeds, as text."""
    lines = []
    for name, words in MODELS.items():
        found = evaluations(entry.computed, name)
        both = [one for each in found if (one := rates(each)) is not None]
        if both:
            ca, asr = mean_text([one[0] for one in both]), mean_text([one[1] for one in both])
            recall = mean_text(least(found, "target_recall"))
            lines.append((words, ca, asr, recall, mean_text(least(found, "triggered_acc"))))
    return lines


def evaluations(records: Iterable[Record], name: str) -> list[Evaluation]:
    """The evaluations of a model, `main` or a control, of the records that have it."""
    every = [one.main if name == "main" else one.controls.get(name) for one in records]
    return [one for one in every if one is not None]


def least(found: Iterable[Evaluation], field: str) -> list[float]:
    """Per evaluation the lowest of a count's rates over its threats, in per cent."""
    counts = [[getattr(threat, field) for threat in one.threats] for one in found]
    return [min(percents) for each in counts if (percents := percent(each))]


def percent(counts: Iterable[Count]) -> list[float]:
    """The rates of counts that counted anything."""
    return [100 * one.rate for one in counts if one.total]


def mean_text(values: Sequence[float]) -> str:
    """Mean ± sample standard deviation over seeds."""
    if not values:
        return ABSENT
    spread = f" ± {number(stdev(values), 1)}" if len(values) > 1 else ""
    return number(fmean(values), 1) + spread


def curve(entry: Entry) -> tuple[str, str] | None:
    """(SVG, what it says) of the line from undefended to defended, if there is one."""
    having = [one for one in entry.computed if one.curve]
    found = curves(having)
    return (large(found, [one.seed for one in having]), curve_words(found)) if found else None


def tasks(entry: Entry) -> list[tuple[str, list[tuple[str, str, float]]]]:
    """Per task, per model of COMPARED: its words, CA as text and as a share of 100."""
    known = {name: per_task(evaluations(entry.computed, name)) for name in COMPARED}
    same = entry.row.names["defense"] == "none"
    columns = [name for name in COMPARED if known[name] and not (same and name == "undefended")]
    every = dict.fromkeys(task for name in columns for task in known[name])
    return [
        (
            task,
            [
                (MODELS[name], number(known[name].get(task), 1), known[name].get(task, 0.0))
                for name in columns
            ],
        )
        for task in every
    ]


def threat_model(attack: str) -> list[tuple[str, str]]:
    """The card of an attack, if conf/ has it."""
    if attack not in options("attack"):
        return []
    card = locate(option("attack", attack)["_target_"]).threat_model
    return [("knows", card.knows), ("controls", card.controls), ("needs", card.needs)]


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML, innermost lists and mappings on one line."""
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text = yaml.dump(
        dict(values), Dumper=dumper, sort_keys=False, default_flow_style=None, width=100,
        allow_unicode=True,
    )  # fmt: skip
    return text.rstrip()


def made(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """Provenance and keys, one column per record; what is unknown is empty."""
    from benchmark.report.page import flat

    every = [{"record": one.key, **dict(flat(one.provenance))} for one in records]
    for one, record in zip(every, records, strict=True):
        one |= dict(flat({"parent": {k: v for k, v in record.parents.items() if k != "experts"}}))
    names = dict.fromkeys(name for one in every for name in one)
    return [(name, [one.get(name, "") for one in every]) for name in names]
