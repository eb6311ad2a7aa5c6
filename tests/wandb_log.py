"""Offline W&B runs, read back from disk: the transaction log is LevelDB's, its records protobuf."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEAD = 7  # bytes of the file's header ":W&B", magic, version, and of a chunk's checksum, size, type
BLOCK = 32 * 1024
FULL, LAST = 1, 4


@dataclass
class Run:
    """What an offline run holds."""

    folder: Path
    about: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None

    def table(self, name: str) -> dict[str, Any]:
        """A table that was logged: columns and data."""
        return json.loads((self.folder / "files" / self.summary[name]["path"]).read_text())

    def pictures(self) -> Iterator[tuple[str, str]]:
        """(key, file of the first picture) of every key with pictures."""
        for name, value in self.summary.items():
            if isinstance(value, dict) and value.get("_type") == "images/separated":
                yield name, value["filenames"][0]


def runs(root: Path) -> dict[str, Run]:
    """Run id -> run, of all offline runs below `<root>/wandb`; each id has one folder."""
    found = [_run(path) for path in sorted((root / "wandb").glob("offline-run-*/*.wandb"))]
    by_id = {run.about.run_id: run for run in found}
    assert len(by_id) == len(found)
    return by_id


def _records(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    place, whole = HEAD, b""
    while place + HEAD <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEAD:  # too little for a chunk: zeros up to the next block
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + HEAD])
        whole += data[place + HEAD : place + HEAD + size]
        place += HEAD + size
        if kind in (FULL, LAST):
            yield whole
            whole = b""


def _run(path: Path) -> Run:
    from wandb.proto.wandb_internal_pb2 import Record

    run = Run(path.parent)
    for data in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.about = record.run
            _put(record.run.config.update, run.config)
        elif kind == "history":
            run.history.append(_put(record.history.item, {}))
        elif kind == "summary":
            _put(record.summary.update, run.summary)
        elif kind == "metric":
            run.axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _put(items: Any, into: dict[str, Any]) -> dict[str, Any]:
    """Protobuf's items, whose keys may be paths, as JSON in `into`."""
    for item in items:
        *path, last = list(item.nested_key) or [item.key]
        node = into
        for part in path:
            node = node.setdefault(part, {})
        node[last] = json.loads(item.value_json)
    return into
