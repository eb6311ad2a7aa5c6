"""A diagnosis as a section of the report: figures, numbers and pictures, all inline. No torch."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.diagnostics.figures import KINDS, drawings, shown
from benchmark.diagnostics.findings import Findings


def section(findings: Findings, folder: Path) -> dict[str, Any]:
    """One diagnosis; its pictures are read from `folder`."""
    names = findings.names
    inputs = [one for one in KINDS if shown(findings, one, "line")]
    return {
        "title": f"{names['defense']} after {names['merge']} of {names['attack']}, "
        f"suite {names['suite']}, seed {findings.seed}",
        "drawings": drawings(findings),
        "inputs": inputs,
        "victim": findings.victims[0],
        "alpha": f"{findings.alpha:g}",
        "rows": _rows(findings, inputs),
        "sheets": [(one.caption, _uri(folder / one.file)) for one in findings.sheets],
        "missing": sorted(findings.missing.items()),
        "command": findings.command,
        "commit": (findings.made.get("commit") or "unknown")[:10],
    }


def _rows(findings: Findings, inputs: Sequence[str]) -> list[list[str]]:
    """Per layer its name and, for each kind of input, distance, distance of the ends, coefficient.

    Means over images, with their sample standard deviation but for the ends.
    """
    columns = []
    for kind in inputs:
        line = [layer.numbers for layer in shown(findings, kind, "line")]
        ends = [layer.numbers for layer in shown(findings, kind, "ends")]
        columns.append(
            [f"{_small(one['distance'])} ± {_small(one['distance_std'])}" for one in line]
        )
        columns.append([_small(one["distance"]) for one in ends])
        columns.append([f"{one['coefficient']:.3f} ± {one['coefficient_std']:.3f}" for one in line])
    layers = dict.fromkeys(layer.layer for layer in findings.layers)
    return [list(row) for row in zip(layers, *columns, strict=True)]


def _small(value: float) -> str:
    """Two digits and a short exponent: 1.5e-5."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def _uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
