"""`lfpm-bench export-checkpoint`: a merged or defended model of a finished cell, for elsewhere."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.cell import Cell
from benchmark.checkpoints.card import card, model_key
from benchmark.checkpoints.formats import Files, hugging_face_files, open_clip_files
from benchmark.errors import BenchError
from benchmark.export import asked_record
from benchmark.recorded import record_cell
from benchmark.records import Record
from benchmark.replay import command
from benchmark.store import Store, key_of
from benchmark.types import Model, StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.models.backbone import Backbone

FORMATS: dict[str, Callable[[StateDict, Backbone], Files]] = {
    "open_clip": open_clip_files,
    "hf": hugging_face_files,
}
MODELS = {
    "defended": "main",
    "merged": "undefended",
    "clean_merge": "clean_merge",
    "defended_clean_merge": "defended_clean_merge",
    "without_attacker": "without_attacker",
}
"""What the user calls a model -> what the cell does."""


def export_checkpoint(words: Sequence[str], model: str, form: str, out: Path) -> dict[str, Any]:
    """Write a model of a finished cell as a whole CLIP, with its card and its tasks' prompts.

    The image tower is the model's, all else the base's. Nothing is computed.

    Args:
        words: the key of a record, or the Hydra words of one cell; `store=DIR` with either.
        model: one of MODELS.
        form: one of FORMATS.
        out: the folder to write; it must not be there, or be empty.

    Returns:
        Plain JSON: folder, format, model, the record's key, sha256 of each file.

    Raises:
        BenchError: one sentence; nothing was written.
    """
    _check_free(out)
    record, store = asked_record(words)
    cell = _cell_of(record, model)
    if MODELS[model] not in cell.subjects():
        raise BenchError(f"--model {model}: in record {record.key} nobody attacks; name another")
    made = _load(cell, record, store, MODELS[model])
    if made.adapters:
        raise BenchError(
            f"merge '{record.names['merge']}' puts an adapter before the head of each task, and "
            "no CLIP has a place for these: without them it is another model than was measured; "
            "export a cell of a merge without adapters (surgery is made on one of those)"
        )
    clip = _clip(cell, store)
    clip |= {f"visual.{name}": value for name, value in made.encoder.items()}
    files = FORMATS[form](clip, cell.backbone)
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    prompts = _prompts(cell)
    text = card(record, cell, MODELS[model], form, sums)
    _write(out, {**files, "tasks.json": prompts, "README.md": text.encode()})
    told = {"folder": str(out), "format": form, "model": model, "record": record.key}
    return {**told, "sha256": sums}


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BenchError(f"--out {out} is there already; name a new folder")


def _cell_of(record: Record, model: str) -> Cell:
    """The record's cell, if it was computed and its keys are still those of this program."""
    again = command(record)
    if record.main is None:
        raise BenchError(f"record {record.key} has no model: {record.status}, {record.reason}")
    cell = record_cell(record)
    if cell.key != record.key and (MODELS[model] != "main" or "stress" in record.names):
        raise BenchError(
            f"record {record.key} was made by another version of its components, of which only "
            f"--model defended can still be found; compute it again: {again or 'with that version'}"
        )
    return cell


def _load(cell: Cell, record: Record, store: Store, subject: str) -> Model:
    """A subject as it was measured: after the stress, if the cell has one."""
    from benchmark.artifacts import load_model, load_stressed

    stage = cell.model_stage(subject)
    assert stage is not None  # only the pre-trained model has none
    model = load_model(*_found(record, store, stage[0], model_key(record, cell, subject)))
    if (stressed := cell.stressed(subject)) is None:
        return model
    return load_stressed(*_found(record, store, "stress", key_of(*stressed)), model).model


def _found(record: Record, store: Store, stage: str, key: str) -> tuple[Tensors, dict[str, Any]]:
    """An artifact that must be there."""
    if (found := store.load(stage, key)) is None:
        raise BenchError(
            f"the model {key} of record {record.key} is not in {store.root}; delete "
            f"records/{record.key}.json there and run: {command(record)}"
        )
    return found


def _clip(cell: Cell, store: Store) -> Tensors:
    """Both towers of the base: from its file, or as the pre-training stage left them."""
    if cell.backbone.weights is not None:
        return cell.backbone.load()
    key = key_of(*cell.pretrain())
    if (found := store.load("pretrain", key)) is None:
        raise BenchError(f"the base weights {key} are not in {store.root}: run the cell again")
    return found[0]


def _prompts(cell: Cell) -> bytes:
    """What the heads of the tasks are made of, so that others can measure the same."""
    tasks = {
        name: {"classnames": data.classnames, "templates": data.templates}
        for name, data in cell.datasets.items()
    }
    told = {"logit_scale": cell.backbone.logit_scale, "tasks": tasks}
    return (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode()


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """The folder appears when it is whole."""
    made = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        for name, data in files.items():
            (made / name).write_bytes(data)
        made.chmod(0o755)
        made.replace(out)  # over an empty folder, if that is there
    except OSError as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        raise BenchError(f"--out {out} cannot be written ({error.strerror})") from error
