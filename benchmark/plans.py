"""Plans: what a command line asked for, resolved, and frozen on disk by hash.

A plan holds every value of every cell. Editing conf/ in the middle of a sweep therefore changes
nothing of it: the running command has its cells, and `lfpm-bench run --plan ID` goes on with them.
The same words after the edit are another plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import BenchError
from benchmark.store import canonical, write_atomic

VERSION = 5
"""Raised when what a plan holds changes."""


@dataclass(frozen=True)
class Plan:
    """What a command line asks for.

    Attributes:
        configs: one resolved plain config per cell, in sweep order, each once.
        runtime: store, launcher, stage and diagnosis.
        id: the hash of the words and of conf/ that it was made of; 8 hex digits.
    """

    configs: list[dict[str, Any]]
    runtime: dict[str, Any]
    id: str = ""


def path_of(store: Path, asked: Sequence[str | None], conf: Path) -> Path:
    """Where the plan of these words, under conf/ as it is now, is (or would be)."""
    words = hashlib.sha256(canonical([VERSION, *asked]).encode())
    whole = words.copy()
    for path in sorted(conf.rglob("*.yaml")):
        whole.update(str(path.relative_to(conf)).encode())
        whole.update(path.read_bytes())
    return store / "plans" / f"{whole.hexdigest()[:32]}-{words.hexdigest()[:8]}.json"


def load(path: Path) -> Plan:
    """Read a plan."""
    body = json.loads(path.read_text())
    values = body["values"]
    configs = [{name: values[at] for name, at in one.items()} for one in body["configs"]]
    return Plan(configs, body["runtime"], path.name[:8])


def save(path: Path, plan: Plan) -> None:
    """Write a plan; once written it is never changed. What cells share is written once."""
    places: dict[str, int] = {}
    configs = [
        {name: places.setdefault(json.dumps(value), len(places)) for name, value in one.items()}
        for one in plan.configs
    ]
    values = [json.loads(text) for text in places]
    body = {"version": VERSION, "values": values, "configs": configs, "runtime": plan.runtime}
    write_atomic(path, json.dumps(body).encode())


def named(store: Path, name: str) -> list[Path]:
    """Where the plans are whose id begins with `name`, which may be anything a user typed."""
    return sorted((store / "plans").glob(f"{name}*-*.json")) if name.isalnum() else []


def find(store: Path, name: str) -> Plan:
    """The plan whose id begins with `name`; one sentence if there is none, or more than one."""
    paths = named(store, name)
    if len(paths) != 1:
        known = ", ".join(sorted(path.name[:8] for path in (store / "plans").glob("*-*.json")))
        many = "names several plans" if paths else "is no plan"
        raise BenchError(f"--plan={name} {many} of {store} (there are: {known or 'none'})")
    return load(paths[0])


def replaced(path: Path, plan: Plan) -> str | None:
    """The id of the newest other plan of the same words, if its cells differ from this one's."""
    same = [one for one in path.parent.glob(f"*-{path.stem[-8:]}.json") if one != path]
    if not same:
        return None
    before = load(max(same, key=lambda one: one.stat().st_mtime))
    cells, earlier = ({canonical(config) for config in one.configs} for one in (plan, before))
    return before.id if earlier - cells else None
