"""What has been sent where, by the hash of what it was: pushing twice sends once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmark import claims
from benchmark.store import write_atomic

VERSION = 1
"""Raised when runs are to hold other things: then everything is sent again."""


def digest(text: str) -> str:
    """What stands for the content of a run."""
    return hashlib.sha256(f"{VERSION}\n{text}".encode()).hexdigest()


class Ledger:
    """`<root>/wandb/ledger/<run id>.json`: destination -> digest, time and place."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "wandb" / "ledger"

    @contextmanager
    def of(self, run: str) -> Iterator[dict[str, Any]]:
        """The notes on one run, nobody else's meanwhile; what changed is kept on leaving.

        Notes that cannot be read are none: the run is sent once more.
        """
        path = self.folder / f"{run}.json"
        with claims.alone(self.folder, run):
            try:
                before = json.loads(path.read_text())
            except (OSError, ValueError):
                before = {}
            notes = dict(before) if isinstance(before, dict) else {}
            yield notes
            if notes != before:
                write_atomic(path, json.dumps(notes, indent=1).encode())


def note(content: str, place: str) -> dict[str, str]:
    """An entry: what was sent, when, and where it lies."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"digest": digest(content), "at": at, "place": place}
