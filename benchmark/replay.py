"""The command that computes a record's cell again, told from the record and conf/. No Hydra."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from shlex import join
from typing import Any

from benchmark.components import option, options, standard
from benchmark.errors import BenchError
from benchmark.listing import default_budget
from benchmark.records import Record

CHOICES = ("suite", "peft", "attack", "merge", "defense", "stress")
"""Groups that a command line chooses from; suites choose backbone and recipe."""
GROUPS = (*CHOICES, "backbone", "finetune")
BUDGET = re.compile(r"\$\{budget\.(\w+)\}")
PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SPECIAL = {"true", "false", "null", "inf", "nan"}
BEFORE_QUOTE = re.compile(r"(\\*)('|$)")


def command(record: Record) -> str | None:
    """`lfpm-bench run ...` as a line for a shell; None if conf/ no longer has its options."""
    found = words(record)
    return None if found is None else join(["lfpm-bench", "run", *found])


def words(record: Record) -> list[str] | None:
    """Hydra words that compose to the record's config.

    The options by their names, then every value that is not its option's own. Values that options
    take from the budget are told by the budget with which fewest words are needed.

    Returns:
        None if an option of the record is not in conf/ any more.
    """
    chosen = [f"{group}={record.names[group]}" for group in CHOICES if group in record.names]
    default, _ = default_budget()
    # A published suite chooses a budget of its own (conf/suite/vit_b32_6.yaml).
    embedded = str(record.names.get("suite")).partition("_")[0] == standard("suite")
    try:
        nodes = dict(_nodes(record))
    except BenchError:
        return None
    tries = [
        [
            *([] if name == default and embedded else [f"budget={name}"]),
            *_changed(record, nodes, name),
        ]
        for name in sorted(options("budget"), key=lambda one: one != default)
    ]
    given = [f"experts.{task}={literal(file)}" for task, file in _imported(record)]
    return [*chosen, *given, *min(tries, key=len), f"seed={record.seed}"]


def _imported(record: Record) -> Iterator[tuple[str, str]]:
    """Task -> file of the experts that were not trained here."""
    yield from record.config.get("experts", {}).items()


def _nodes(record: Record) -> Iterator[tuple[str, Any]]:
    """Dotted place -> the option's YAML there."""
    for group in GROUPS:
        if group in record.names and group in record.config:
            yield group, option(group, record.names[group])
    for task in record.config.get("dataset", {}):
        yield f"dataset.{task}", option("dataset", task)


def _changed(record: Record, nodes: Mapping[str, Any], budget: str) -> Iterator[str]:
    worth = option("budget", budget)
    for place, node in nodes.items():
        group, _, task = place.partition(".")
        recorded = record.config[group]
        yield from _words(place, recorded[task] if task else recorded, node, worth)


def _words(place: str, recorded: Any, node: Any, worth: Mapping[str, Any]) -> Iterator[str]:
    """One word per value that is not the option's own."""
    if isinstance(recorded, Mapping) and isinstance(node, Mapping) and recorded:
        for key, value in recorded.items():
            if key in node:
                yield from _words(f"{place}.{key}", value, node[key], worth)
            else:
                yield f"+{place}.{key}={literal(value)}"
        return
    asked = BUDGET.fullmatch(node) if isinstance(node, str) else None
    if recorded != (worth.get(asked.group(1)) if asked else node):
        yield f"{place}={literal(recorded)}"


def literal(value: Any) -> str:
    """Plain JSON in Hydra's grammar of values."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and value.lower() not in SPECIAL else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """In single quotes; a backslash is doubled before a quote only, as Hydra reads it."""
    escaped = BEFORE_QUOTE.sub(lambda at: at.group(1) * 2 + ("\\'" if at.group(2) else ""), text)
    return f"'{escaped}'"
