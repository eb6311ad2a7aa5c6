"""What jobs cost so far: time, disk and memory by kind, read from the artifacts of a store.

A job's cost is that of the most similar ones: the same stage with the same values, else of the same
class, else the stage in general. What was never measured has no estimate.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
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
    """Seconds, bytes on disk and bytes of memory by kind; grows as jobs end."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, list[float]]] = {"seconds": {}, "size": {}, "memory": {}}

    def learn(
        self,
        kinds: Kinds,
        seconds: float | None,
        size: float | None = None,
        memory: float | None = None,
    ) -> None:
        """Add what one job took, the bytes it wrote, and the most it held in memory."""
        for name, value in (("seconds", seconds), ("size", size), ("memory", memory)):
            for kind in kinds:
                if value is not None:
                    self._known[name].setdefault(kind, []).append(value)

    def seconds(self, kinds: Kinds) -> float | None:
        """The median time of the most similar jobs; None if there are none."""
        return self._first("seconds", kinds, median)

    def size(self, kinds: Kinds) -> float | None:
        """The median bytes that the most similar jobs wrote; None if there are none."""
        return self._first("size", kinds, median)

    def memory(self, kinds: Kinds) -> float | None:
        """The most bytes that a process of the most similar jobs held; None if there are none."""
        return self._first("memory", kinds, max)

    def _first(self, name: str, kinds: Kinds, of: Callable[[list[float]], float]) -> float | None:
        known = self._known[name]
        return next((of(known[kind]) for kind in kinds if kind in known), None)


def measured_costs(store: Store, stages: Iterable[str]) -> Costs:
    """What the newest artifacts of these stages took."""
    found = Costs()
    for stage in set(stages):
        for sidecar in _newest(store.root / "artifacts" / stage):
            try:
                node = json.loads(sidecar.read_text())
                size = sidecar.stat().st_size + sidecar.with_suffix(".safetensors").stat().st_size
                kinds, made = kinds_of(stage, node["inputs"]), node["made"]
            except (OSError, ValueError, KeyError):
                continue  # an estimate needs no damaged artifact; a run will name and replace it
            memory = made.get("peak_memory_mib")
            found.learn(kinds, made.get("seconds"), size, memory and memory * 2**20)
    return found


def measured_seconds(store: Store, stage: str, key: str) -> float | None:
    """What making one artifact took, by what is written beside it; None where nothing is."""
    try:
        return json.loads(store.path(stage, key).read_text())["made"].get("seconds")
    except (OSError, ValueError, KeyError):
        return None


def _newest(folder: Path) -> list[Path]:
    paths = [path for path in folder.glob("*.json") if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)[:SAMPLE]
