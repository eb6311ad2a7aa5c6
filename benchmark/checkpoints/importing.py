"""`lfpm-bench import-checkpoint`: somebody else's fine-tuned CLIP as an expert of a suite."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.checkpoints.adapters import merged_adapter
from benchmark.checkpoints.huggingface import from_hugging_face
from benchmark.checkpoints.manifest import CLOSE, FORMAT, fingerprint, manifest_of
from benchmark.checkpoints.opening import Contents, open_checkpoint
from benchmark.checkpoints.towers import as_words, find_tower, summarised
from benchmark.errors import BadCheckpoint, BenchError, nearest
from benchmark.store import file_sha256, write_atomic
from benchmark.types import StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.models.backbone import Backbone

log = logging.getLogger(__name__)
LISTED = 12
"""Faults that an error names."""
FAR = 0.2
"""Distance to the base, over its length, beyond which a model is hardly a fine-tune of it; those
of published ViT-B/32 fine-tunes are 0.008 to 0.02."""
LICENCE = "unknown: the file does not tell; ask whoever made it before you pass it on"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user says about a checkpoint.

    Attributes:
        task: whose expert it is.
        activation: "quickgelu" or "gelu"; None: the file must tell.
        licence: a note for the manifest.
        source: where it is from, in words or an address.
        leave_out: patterns of tensors that may go.
    """

    task: str
    activation: str | None = None
    licence: str | None = None
    source: str | None = None
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """An image tower as read: weights as float32 by open_clip's names, and a few words on it."""

    weights: Tensors
    dtypes: Mapping[str, int]
    left_out: tuple[str, ...]
    from_base: tuple[str, ...] = ()


def import_checkpoint(
    given: Path, wish: Wish, backbone: Backbone, tasks: Sequence[str], out: Path
) -> dict[str, Any]:
    """Read a checkpoint, check it against a suite's encoder, and write weights and manifest.

    Nothing in the file is run, and nothing is written unless all of it fits.

    Args:
        given: a file, or a folder of transformers, open_clip or peft.
        wish: what the user says about it.
        backbone: the suite's.
        tasks: that may be named.
        out: the safetensors file to write; the manifest goes beside it, with the suffix .json.

    Returns:
        The manifest, plain JSON.

    Raises:
        BadCheckpoint: one sentence that names the file and what is wrong with it.
    """
    if wish.task not in tasks:
        raise BenchError(f"--as {wish.task}: no such task{nearest(wish.task, tasks)}")
    if out.suffix != ".safetensors":
        raise BenchError(f"--out {out} is no name for weights: end it in .safetensors")
    try:
        contents = open_checkpoint(given)
        activation = _check_said(contents, wish.activation, backbone)
        base = _base(backbone)
        taken = _taken(contents, wish, base)
        _check_fit(taken.weights, base)
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{given} is not imported: {error}") from error
    told = _manifest(contents, wish, backbone, taken)
    told |= {"activation_told_by": activation, "distance": _distance(taken.weights, base)}
    return _write(out, taken.weights, told)


def _base(backbone: Backbone) -> StateDict:
    """θ_0 of the suite."""
    from benchmark.models.backbone import image_tower

    if backbone.weights is None:
        raise BenchError("backbone.weights is null: an expert can only be imported for a base")
    return image_tower(backbone.load())


def _check_said(contents: Contents, wished: str | None, backbone: Backbone) -> str:
    """Who told the activation, once all that is told fits the suite's encoder."""
    said, suite = contents.said, fingerprint(backbone)
    if said.activation and wished and said.activation != wished:
        raise BadCheckpoint(f"--activation {wished}, but it tells {said.activation} itself")
    found = said.activation or wished
    if found is None:
        raise BadCheckpoint(
            "it does not tell its activation, which no weight shows: find out and say --activation "
            f"quickgelu (OpenAI's models) or gelu (most others); the suite computes "
            f"{suite['activation']}"
        )
    if found != suite["activation"]:
        raise BadCheckpoint(
            f"it computes {found}, the suite's encoder {suite['activation']}; choose the --suite "
            "that has its activation"
        )
    width, head = suite["architecture"].get("width"), suite["architecture"].get("head_width", 64)
    if said.heads and width and said.heads != width // head:
        raise BadCheckpoint(f"it has {said.heads} attention heads, the suite's {width // head}")
    for name in ("mean", "std"):
        theirs, ours = getattr(said, name), getattr(backbone, name)
        if theirs and any(abs(a - b) > CLOSE for a, b in zip(theirs, ours, strict=True)):
            raise BadCheckpoint(
                f"its images were normalised with {name} {as_words(theirs)}, the suite's are with "
                f"{as_words(ours)}"
            )
    return "the file" if said.activation else "--activation"


def _taken(contents: Contents, wish: Wish, base: StateDict) -> Taken:
    """The image tower in what was opened."""
    if contents.adapter is not None:
        tensors = {name: _numbers(contents, name) for name in contents.names}
        weights, left = merged_adapter(contents.adapter, tensors, base)
        return Taken(weights, _dtypes(tensors), tuple(left), ("all that it does not adapt",))
    tower = find_tower(contents.names, wish.leave_out)
    found = {short: _numbers(contents, name) for name, short in tower.names.items()}
    dtypes, borrowed = _dtypes(found), ()
    if tower.hugging_face:
        projection = _numbers(contents, tower.projection) if tower.projection else None
        found = from_hugging_face(found, projection)
        # A CLIPVisionModel has none: fine-tuning it left the base's as it was.
        borrowed = () if projection is not None else ("proj",)
        found |= {name: base[name] for name in borrowed if name in base}
    weights = {name: value.float() for name, value in sorted(found.items())}
    left = (*tower.left_out, *(f"{name} (no tensor)" for name in contents.beside))
    return Taken(weights, dtypes, left, borrowed)


def _numbers(contents: Contents, name: str) -> Any:
    value = contents.load(name)
    if not value.is_floating_point():
        raise BadCheckpoint(f"{name} is {str(value.dtype).removeprefix('torch.')}, not numbers")
    return value


def _dtypes(tensors: StateDict) -> dict[str, int]:
    """Type -> number of tensors that had it."""
    found = sorted(str(value.dtype).removeprefix("torch.") for value in tensors.values())
    return {name: found.count(name) for name in dict.fromkeys(found)}


def _check_fit(weights: StateDict, base: StateDict) -> None:
    from benchmark.algebra import first_faults

    if faults := first_faults(base, weights, named=LISTED):
        raise BadCheckpoint(f"it is not of the suite's architecture or not whole: {faults}")


def _distance(weights: StateDict, base: StateDict) -> float:
    """Length of the task vector over the base's; said aloud where it is none of a fine-tune."""
    from benchmark.algebra import norm, task_vector

    apart = norm(task_vector(weights, base)) / norm(base)
    if apart > FAR:
        log.warning(
            "its distance to the suite's base is %.2f of the base's length (fine-tunes: about "
            "0.01): it was hardly fine-tuned from this base, and merges of it will fail",
            apart,
        )
    return round(apart, 6)


def _manifest(contents: Contents, wish: Wish, backbone: Backbone, taken: Taken) -> dict[str, Any]:
    said = contents.said
    source = {
        "file": contents.path.name,
        "sha256": file_sha256(contents.path),
        "kind": contents.kind,
        "told": wish.source,
        "dtypes": dict(taken.dtypes),
        "classes": list(said.classes),
    }
    return {
        "format": FORMAT,
        "task": wish.task,
        "source": source,
        "licence": wish.licence or LICENCE,
        **fingerprint(backbone),
        "preprocessing_told_by": "the file" if said.mean else "nobody: the suite's is assumed",
        "base_sha256": backbone.weights_sha256(),
        "from_base": list(taken.from_base),
        "left_out": summarised(taken.left_out),
    }


def _write(out: Path, weights: StateDict, told: Mapping[str, Any]) -> dict[str, Any]:
    """Weights first, then the manifest that makes them an expert."""
    import hashlib

    from safetensors.torch import save

    data = save(
        {name: value.detach().contiguous() for name, value in weights.items()},
        metadata={"activation": str(told["activation"])},
    )
    digest = hashlib.sha256(data).hexdigest()
    manifest = {**told, "sha256": digest}
    try:
        if out.exists() and file_sha256(out) != digest:
            raise BenchError(f"--out {out} is there with other content; name another file")
        write_atomic(out, data)
        write_atomic(manifest_of(out), json.dumps(manifest, indent=1).encode())
    except OSError as error:
        raise BenchError(f"--out {out} cannot be written ({error.strerror})") from error
    return {"file": str(out), **manifest}
