"""`lfpm-bench wandb push`: finished records to W&B, now or later, each once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmark import config, tables
from benchmark.components import option, options
from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.store import Store
from benchmark.tracking.courier import say, summary
from benchmark.tracking.sender import Sender, Sent
from benchmark.tracking.settings import Wandb, tracker_from


@dataclass(frozen=True)
class Parcel:
    """Records that belong together, and their table where they have one."""

    group: str | None
    records: Sequence[Record]
    table: tables.Table | None = None
    words: Sequence[str] = ()


def push(
    names: Sequence[str],
    folder: Path | None,
    *,
    group: str | None = None,
    again: bool = False,
) -> tuple[int, str]:
    """Send what is not there yet.

    Args:
        names: experiments, and words: Hydra's for their cells (seed=0,1), `store=DIR`, and
            `tracker.KEY=VALUE`. No experiment: all records of the store.
        folder: take every record in this folder instead.
        group: of all runs, instead of the experiment's (the folder's, the suite's) name.
        again: send what has been sent, too.

    Returns:
        0, or 1 if anything was not sent; and what became of every run, as JSON.
    """
    tracker, words = _tracker(names)
    to = tracker.destination("online")
    if to.mode == "disabled":
        raise BenchError("W&B is disabled: unset WANDB_MODE, or say --offline")
    store = Store(config.store_of(words))
    store.check_writable()
    sender = Sender(store.root, to, None, tracker.pictures, again)
    found: list[Sent] = []
    for parcel in _parcels(words, folder, store):
        named = replace(sender, group=group or tracker.group or parcel.group)
        found += _send(named, parcel)
    say(summary(found, sender))
    body = {**Counter(one.state for one in found), "runs": [asdict(one) for one in found]}
    return int(any(one.state == "failed" for one in found)), json.dumps(body, indent=1)


def _tracker(words: Sequence[str]) -> tuple[Wandb, list[str]]:
    """The tracker as conf/ and `tracker.KEY=VALUE` words have it, and the other words."""
    import yaml

    node: dict[str, Any] = dict(option("tracker", "wandb"))
    rest = []
    for word in words:
        key, given, value = word.partition("=")
        if given and key.startswith("tracker."):
            node[key.removeprefix("tracker.")] = yaml.safe_load(value)
        elif key != "tracker":
            rest.append(word)
    tracker = tracker_from(node)
    assert isinstance(tracker, Wandb)
    return tracker, rest


def _parcels(words: Sequence[str], folder: Path | None, store: Store) -> Iterator[Parcel]:
    names = [word for word in words if "=" not in word]
    if folder is not None:
        if names:
            raise BenchError(f"--records={folder} and {names[0]}: give one of them")
        records = tables.find(folder)
        if not records:
            raise BenchError(f"--records={folder} holds no record")
        name = folder.resolve().name if folder.name != "records" else folder.resolve().parent.name
        made = tables.make(name, records) if name in options("table") else None
        yield Parcel(name, records, made)
    elif not names:
        yield Parcel(None, tables.find(store.root))
    for name in names:
        yield _planned(name, [word for word in words if "=" in word], store)


def _planned(name: str, words: Sequence[str], store: Store) -> Parcel:
    """The records of an experiment's cells that are there, and its table."""
    from benchmark import results

    cells, _ = results.planned(name, words)
    records = results.present(cells, store)
    if not records:
        say(f"no cell of '{name}' has a record in {store.root}")
    made = None
    if records and name in options("table"):
        made = results.table(name, words, [], partial=True)
    told = [word for word in words if not word.startswith("store=")]
    return Parcel(name, records, made, told)


def _send(sender: Sender, parcel: Parcel) -> Iterator[Sent]:
    yield from map(sender.cell, parcel.records)
    if parcel.table is not None:
        yield sender.table(parcel.table, parcel.words)
