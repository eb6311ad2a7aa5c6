"""What jobs cost so far: seconds and bytes by kind of stage, read from the artifacts of a store.

A job's cost is that of the most similar ones: the same stage with the same values, else of the same
class, else the stage in general. What was never measured has no estimate.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.store import Store, canonical

SAMPLE = 60
"""Newest artifacts that are read of each stage."""
KEY = re.compile(r"[0-9a-f]{32,64}(/.*)?")
UNSAID = ("seed", "scope", "captions")
Kinds = tuple[str, ...]


def kinds_of(stage: str, inputs: Mapping[str, Any]) -> Kinds:
    """What a stage is like, from its very values to its mere name."""
    shape = hashlib.sha256(canonical(_shape(inputs)).encode()).hexdigest()[:16]
    targets = [node["target"] for node in inputs.values() if _is_identity(node)]
    return (f"{stage} {shape}", *(f"{stage} {target}" for target in targets[:1]), stage)


def _is_identity(node: Any) -> bool:
    return isinstance(node, Mapping) and {"target", "version", "values"} <= node.keys()


def _shape(value: Any) -> Any:
    """Inputs without what hardly changes a cost: seeds, the keys of parents, the suite's words."""
    if isinstance(value, Mapping):
        return {name: _shape(one) for name, one in value.items() if name not in UNSAID}
    if isinstance(value, list | tuple):
        return [_shape(one) for one in value]
    return "" if isinstance(value, str) and KEY.fullmatch(value) else value


class Costs:
    """Seconds and bytes by kind; grows as jobs end."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}
        self._bytes: dict[str, list[float]] = {}

    def learn(self, kinds: Kinds, seconds: float | None, size: float | None = None) -> None:
        """Add what one job took, and the bytes it wrote."""
        for kind in kinds:
            if seconds is not None:
                self._seconds.setdefault(kind, []).append(seconds)
            if size is not None:
                self._bytes.setdefault(kind, []).append(size)

    def seconds(self, kinds: Kinds) -> float | None:
        """The median time of the most similar jobs; None if there are none."""
        return _first(self._seconds, kinds)

    def size(self, kinds: Kinds) -> float | None:
        """The median bytes of the most similar jobs; None if there are none."""
        return _first(self._bytes, kinds)


def _first(known: Mapping[str, list[float]], kinds: Kinds) -> float | None:
    return next((median(known[kind]) for kind in kinds if kind in known), None)


def measured_costs(store: Store, stages: Iterable[str]) -> Costs:
    """What the newest artifacts of these stages took."""
    found = Costs()
    for stage in set(stages):
        for sidecar in _newest(store.root / "artifacts" / stage):
            try:
                node = json.loads(sidecar.read_text())
                size = sidecar.stat().st_size + sidecar.with_suffix(".safetensors").stat().st_size
                kinds = kinds_of(stage, node["inputs"])
                found.learn(kinds, node["made"].get("seconds"), size)
            except (OSError, ValueError, KeyError):
                continue  # an estimate needs no damaged artifact; a run will name and replace it
    return found


def _newest(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("*.json") if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)[:SAMPLE]
