"""`lfpm-bench export-vector`: a by-product of a finished cell, as a file of its own.

A defence may leave families of tensors beside its model, named `<family>/<name>`: `tau_a/...` is
LFPM's anti-backdoor vector, an ordinary task vector. In a file of its own it can be added to any
merge of the same architecture (`defense=task_vector`), scaled and looked at.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import config, records
from benchmark.cell import cell_from
from benchmark.errors import BenchError, nearest
from benchmark.parser import Parser
from benchmark.pipeline import finished, record_path
from benchmark.records import Record
from benchmark.store import Store, canonical, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

KEY = re.compile(r"[0-9a-f]{32}")


def command(words: Sequence[str]) -> int:
    """`lfpm-bench export-vector`: what was written as JSON to standard output."""
    parser = Parser(
        "lfpm-bench export-vector",
        description="Write a by-product of a finished cell's defended model to a safetensors file.",
    )
    parser.add_argument("words", nargs="+", help="the Hydra words of one cell, or a record's key")
    parser.add_argument("--family", default="tau_a", help="which by-product (default: tau_a)")
    parser.add_argument("--out", type=Path, required=True, help="the safetensors file to write")
    args = parser.parse_intermixed_args(words)
    sys.stdout.write(json.dumps(export(args.words, args.family, args.out), indent=1) + "\n")
    return 0


def export(words: Sequence[str], family: str, out: Path) -> dict[str, Any]:
    """Write a family of a cell's defended model, with where it comes from as metadata.

    Args:
        words: the key of a record, or the Hydra words of one cell; `store=DIR` with either.
        family: e.g. "tau_a".
        out: the safetensors file; tensors are named without the family.

    Returns:
        Plain JSON: file, its sha256, the record's key, number of tensors, Euclidean norm.
    """
    from safetensors.torch import save

    from benchmark.algebra import norm

    record, store = asked_record(words)
    tensors = _family(record, store, family)
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = save(kept, metadata=_metadata(record, family))
    write_atomic(out, data)
    digest = hashlib.sha256(data).hexdigest()
    told = {"file": str(out), "sha256": digest, "record": record.key}
    return {**told, "tensors": len(kept), "norm": norm(kept)}


def asked_record(words: Sequence[str]) -> tuple[Record, Store]:
    """The record that words name, and its store.

    Args:
        words: the key of a record, or the Hydra words of one cell; `store=DIR` with either.

    Raises:
        BenchError: there is none, or they name no single cell.
    """
    keys = [word for word in words if KEY.fullmatch(word)]
    if keys:
        store = Store(config.store_of(words))
        path = record_path(store, keys[0])
        if not path.exists():
            raise BenchError(f"there is no record {keys[0]} in {store.root}; give store=DIR")
        return records.read(path), store
    plan = config.plan(words)
    if plan is None or len(plan.configs) != 1:
        raise BenchError(f"'{' '.join(words)}' is not one cell: name one, or give a record's key")
    store = Store(plan.runtime["store"])
    record = finished(store, cell_from(plan.configs[0]).key)
    if record is None:
        raise BenchError(
            f"this cell has no record in {store.root}: run `lfpm-bench run {' '.join(words)}` first"
        )
    return record, store


def _family(record: Record, store: Store, family: str) -> Mapping[str, Tensor]:
    """The tensors `<family>/...` that the record's defended model came with."""
    from benchmark.artifacts import below, load_model

    key = record.parents["model"]
    found = store.load("defend", key) or store.load("merge", key)
    if found is None:
        raise BenchError(
            f"the model {key} of record {record.key} is not in {store.root}: run its cell again"
        )
    artifacts = load_model(*found).artifacts
    families = sorted({name.partition("/")[0] for name in artifacts if "/" in name})
    if family not in families:
        said = nearest(family, families) if families else ""
        defense = record.names["defense"]
        raise BenchError(f"defence '{defense}' left no '{family}' beside its model{said}")
    return below(artifacts, f"{family}/")


def _metadata(record: Record, family: str) -> dict[str, str]:
    """Where the tensors come from; safetensors wants text."""
    plain = {
        "names": record.names,
        "seed": record.seed,
        "needs": record.needs,
        "config": record.config,
        "info": record.info.get("model", {}),
        "parents": record.parents,
        "provenance": record.provenance,
    }
    said = {name: canonical(json.loads(json.dumps(value))) for name, value in plain.items()}
    return {"family": family, "record": record.key, **said}
