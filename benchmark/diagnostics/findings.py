"""What a diagnosis found, as a folder of JSON, CSV and pictures. No torch here."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from benchmark.errors import BenchError
from benchmark.store import write_atomic

SCHEMA = 1
NAME = "diagnosis.json"


@dataclass(frozen=True, slots=True)
class Layer:
    """Cross-task linearity of one layer for some inputs (see `benchmark.diagnostics.ctl`).

    Attributes:
        task: whose images.
        inputs: clean, triggered (with the attack's trigger) or prompted (with mined prompts).
        layer: block N, embedding or logits, in the order of the forward pass.
        comparison: line (the weight path with the feature line), or a baseline: ends,
            middle_first, middle_second.
        numbers: samples, distance, distance_std, distance_whole, and the same of coefficient.
    """

    task: str
    inputs: str
    layer: str
    comparison: str
    numbers: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One point of a curve.

    Attributes:
        alpha: 0 the undefended, 1 the defended model.
        ca: accuracy on clean images in [0,1], averaged over tasks.
        asr: attack success rate in [0,1]; of several threats the worst.
        target_recall: clean recall of the target class in [0,1]; of several threats the worst.
    """

    alpha: float
    ca: float
    asr: float
    target_recall: float


@dataclass(frozen=True, slots=True)
class Curve:
    """CA and ASR of a cell along the line from its undefended to its defended model."""

    label: str
    key: str
    points: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A picture of a task's mined prompts beside the true trigger."""

    task: str
    file: str
    caption: str


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that a diagnosis found.

    Attributes:
        names: suite, attack, merge, defense of the cell.
        seed: of the cell.
        key: of the cell.
        command: what makes this again.
        victims: the threatened tasks.
        alpha: where linearity was measured.
        layers: every task, input, layer and comparison.
        curves: the cell's own first.
        measured: the images that curves were measured on, in words.
        sheets: one per task that has prompts.
        missing: cells without a curve: label and reason.
        made: commit, versions, ...
    """

    names: Mapping[str, str]
    seed: int
    key: str
    command: str
    victims: tuple[str, ...]
    alpha: float
    layers: tuple[Layer, ...]
    curves: tuple[Curve, ...]
    measured: str
    sheets: tuple[Sheet, ...]
    missing: Mapping[str, str]
    made: Mapping[str, Any]
    schema: int = SCHEMA


def write(folder: Path, findings: Findings) -> Path:
    """`diagnosis.json`, `ctl.csv` and `curves.csv`; returns the path of the first."""
    write_atomic(folder / "ctl.csv", _csv(_flat(layer) for layer in findings.layers).encode())
    points = ({"cell": c.label, **asdict(one)} for c in findings.curves for one in c.points)
    write_atomic(folder / "curves.csv", _csv(points).encode())
    text = json.dumps(asdict(findings), indent=1, allow_nan=False) + "\n"
    write_atomic(folder / NAME, text.encode())
    return folder / NAME


def _flat(layer: Layer) -> dict[str, Any]:
    row = asdict(layer)
    return {**{name: row[name] for name in row if name != "numbers"}, **row["numbers"]}


def _csv(rows: Iterable[Mapping[str, Any]]) -> str:
    lines = list(rows)
    out = StringIO()
    writer = csv.DictWriter(out, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def read(path: Path) -> Findings:
    """The findings of a `diagnosis.json`; one sentence if it is damaged."""
    try:
        node = json.loads(path.read_text())
        if node.get("schema") != SCHEMA:
            raise ValueError(f"schema {node.get('schema')} is not {SCHEMA}")
        node["layers"] = tuple(Layer(**one) for one in node["layers"])
        node["curves"] = tuple(_curve(one) for one in node["curves"])
        node["sheets"] = tuple(Sheet(**one) for one in node["sheets"])
        node["victims"] = tuple(node["victims"])
        return Findings(**node)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path} is no diagnosis ({error}); make it again") from error


def _curve(node: Mapping[str, Any]) -> Curve:
    return Curve(node["label"], node["key"], tuple(CurvePoint(**one) for one in node["points"]))


def find(folder: Path) -> list[Path]:
    """Every `diagnosis.json` in and below a folder, in order of their names."""
    return sorted(folder.rglob(NAME))


def tasks(findings: Findings) -> Sequence[str]:
    """Tasks whose linearity was measured, in order."""
    return list(dict.fromkeys(layer.task for layer in findings.layers))
