"""Records: one JSON file per cell and seed; tables are a pure function of them. No torch here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmark.errors import BenchError
from benchmark.store import write_atomic

SCHEMA = 2
READABLE = (1, SCHEMA)
"""Schema 1 had no `curve`."""
Status = Literal["done", "skipped", "not_implanted", "failed"]


@dataclass(frozen=True, slots=True)
class Count:
    """Hits out of a total; never a bare rate."""

    hits: int
    total: int

    def __post_init__(self) -> None:
        """Refuse counts that are none."""
        if not 0 <= self.hits <= self.total:
            raise ValueError(f"a Count needs 0 <= hits <= total, got {self.hits}/{self.total}")

    @property
    def rate(self) -> float:
        """Hits / total in [0,1]; a total of 0 has no rate and raises."""
        if self.total == 0:
            raise ValueError("0/0 has no rate: nothing was counted")
        return self.hits / self.total


@dataclass(frozen=True, slots=True)
class ThreatCounts:
    """What one trigger does to one model (see the formulas in docs/protocol.md).

    Attributes:
        task: the target task.
        target: the target class.
        asr: images whose true class is not the target that go to the target with the trigger.
        target_rate: the same without a trigger.
        target_recall: images of the target class that are recognised without a trigger.
        triggered_acc: triggered images (all classes) predicted as their true class.
        misclassified: triggered images (all classes) predicted wrongly.
        flipped: per non-target task, correct clean predictions that the trigger changes.
        flipped_shuffled: the same with the trigger's pixels shuffled (occlusion control).
    """

    task: str
    target: int
    asr: Count
    target_rate: Count
    target_recall: Count
    triggered_acc: Count
    misclassified: Count
    flipped: Mapping[str, Count]
    flipped_shuffled: Mapping[str, Count]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Counts of one model: clean hits per task and one ThreatCounts per threat.

    `key` addresses the artifact that holds the packed per-image hits.
    """

    key: str
    clean: Mapping[str, Count]
    threats: tuple[ThreatCounts, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One point θ_m + s (θ_def - θ_m) of the line from undefended (s = 0) to defended (s = 1)."""

    scale: float
    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Record:
    """One cell at one seed.

    Attributes:
        key: the cell's address; equal for equal identities.
        names: suite, peft, attack, merge, defense, ...: the chosen options' names.
        seed: the cell's seed.
        status: done, skipped (an incompatible pair), not_implanted, failed.
        reason: one sentence for any status but done.
        config: the resolved values of every component (with versions).
        needs: what attack, merge and defence were allowed to see, as text.
        parents: keys of the artifacts it was computed from.
        main: the evaluation of the model in the row; None unless it was computed.
        controls: the same trigger(s) on `pretrained`, `clean_merge`, `defended_clean_merge`,
            `attacker_single` (the attacker's own model), `without_attacker` (merge without it),
            `undefended` (same attacked merge, defence none).
        curve: the line from `undefended` to `main`, s ascending, on the suite's curve images;
            empty where there is none.
        info: what the merge and the defence said about themselves (chosen scale, passes, ...).
        provenance: commit, versions, seconds, memory, device: outside identity and comparison.
    """

    key: str
    names: Mapping[str, str]
    seed: int
    status: Status
    reason: str | None
    config: Mapping[str, Any]
    needs: Mapping[str, str]
    parents: Mapping[str, Any]
    main: Evaluation | None
    controls: Mapping[str, Evaluation]
    info: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    curve: tuple[Point, ...] = ()
    schema: int = SCHEMA

    def identity_part(self) -> dict[str, Any]:
        """Everything but provenance: what two runs of one cell must agree on."""
        body = asdict(self)
        del body["provenance"]
        return body


def to_json(record: Record) -> str:
    """The record as the text of its file."""
    return json.dumps(asdict(record), indent=1, allow_nan=False) + "\n"


def _count(node: Mapping[str, int]) -> Count:
    return Count(node["hits"], node["total"])


def _counts(node: Mapping[str, Mapping[str, int]]) -> dict[str, Count]:
    return {task: _count(count) for task, count in node.items()}


def _threat(node: Mapping[str, Any]) -> ThreatCounts:
    return ThreatCounts(
        task=node["task"],
        target=node["target"],
        asr=_count(node["asr"]),
        target_rate=_count(node["target_rate"]),
        target_recall=_count(node["target_recall"]),
        triggered_acc=_count(node["triggered_acc"]),
        misclassified=_count(node["misclassified"]),
        flipped=_counts(node["flipped"]),
        flipped_shuffled=_counts(node["flipped_shuffled"]),
    )


def evaluation_from(node: Mapping[str, Any]) -> Evaluation:
    """An Evaluation from its JSON form."""
    return Evaluation(
        node["key"], _counts(node["clean"]), tuple(_threat(threat) for threat in node["threats"])
    )


def from_json(text: str) -> Record:
    """The record of a file's text; raises ValueError or KeyError where it is none."""
    node = json.loads(text)
    if not isinstance(node, dict):
        raise ValueError("it holds no JSON object")
    if node.get("schema") not in READABLE:
        raise ValueError(f"schema {node.get('schema')} is not {SCHEMA}")
    main = node["main"]
    node["main"] = None if main is None else evaluation_from(main)
    node["controls"] = {name: evaluation_from(one) for name, one in node["controls"].items()}
    node["curve"] = tuple(
        Point(one["scale"], evaluation_from(one["evaluation"])) for one in node.get("curve", ())
    )
    return Record(**{**node, "schema": SCHEMA})


def write(folder: Path, record: Record) -> Path:
    """Write a record under its key, atomically; returns the path."""
    path = folder / f"{record.key}.json"
    write_atomic(path, to_json(record).encode())
    return path


def read(path: Path) -> Record:
    """Read one record; one sentence if it is damaged."""
    try:
        return from_json(path.read_text())
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"{path} is not a record ({error}); delete it and run its cell again"
        ) from error


def read_all(paths: Iterable[Path]) -> list[Record]:
    """Read records, ordered by key."""
    return sorted((read(path) for path in paths), key=lambda record: record.key)
