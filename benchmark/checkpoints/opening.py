"""One door for every file format: what a checkpoint holds, with nothing in it run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.checkpoints.archives import Archive, open_stream, open_zip
from benchmark.checkpoints.said import Said, said_by_config, said_by_tree
from benchmark.checkpoints.tree import View, tensors_of
from benchmark.errors import BadCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 16
"""Bytes of anything that could be a checkpoint."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors",
           "open_clip_pytorch_model.bin")  # fmt: skip
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
CONFIGS = ("adapter_config.json", "config.json", "open_clip_config.json")
"""Files of a folder as transformers, open_clip and peft write it."""
STRANGERS = {
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with `git lfs pull`",
    b"<!DOCTYPE": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
}


@dataclass(frozen=True, slots=True)
class Contents:
    """A checkpoint, opened.

    Attributes:
        path: the file with the tensors.
        kind: how the format is called.
        names: every tensor's name.
        load: the tensor of a name, as the file has it.
        beside: what else stood beside the model in its file.
        said: what the file or its neighbours tell of the model.
        adapter: adapter_config.json, for a LoRA adapter of peft.
    """

    path: Path
    kind: str
    names: tuple[str, ...]
    load: Callable[[str], Tensor]
    beside: tuple[str, ...]
    said: Said
    adapter: Mapping[str, Any] | None = field(default=None)


def open_checkpoint(given: Path) -> Contents:
    """Open a file, or a folder as transformers, open_clip and peft write it.

    Raises:
        BadCheckpoint: it is none, broken, or would run code; the words do not name the file.
    """
    path = _weights(given)
    config = _config(path)
    adapter = config if "peft_type" in config else None
    try:
        with path.open("rb") as file:
            head = file.read(SMALLEST)
        opened = _opener(head, path)(path)
    except OSError as error:
        raise BadCheckpoint(f"it cannot be read ({error.strerror})") from error
    names, load, beside, said, kind = opened
    kind = f"LoRA adapter of peft in {kind}" if adapter else kind
    return Contents(path, kind, names, load, beside, said.over(said_by_config(config)), adapter)


Opened = tuple[tuple[str, ...], "Callable[[str], Tensor]", tuple[str, ...], Said, str]


def _weights(given: Path) -> Path:
    """The file with the tensors."""
    path = given.expanduser()
    try:
        if path.is_dir():
            found = [path / name for name in (*ADAPTERS, *WEIGHTS) if (path / name).is_file()]
            if not found:
                said = ", ".join((*ADAPTERS, *WEIGHTS))
                raise BadCheckpoint(f"it is a folder without any of {said}")
            path = found[0]
        if path.resolve(strict=True).is_file():
            return path
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        said = (
            error.strerror if isinstance(error, OSError) and error.strerror else "a loop of links"
        )
        raise BadCheckpoint(f"it cannot be read ({said.lower()})") from error
    raise BadCheckpoint("it is no regular file")


def _config(path: Path) -> dict[str, Any]:
    """The JSON that belongs to a file of weights, if it lies beside it."""
    adapter = path.name in ADAPTERS
    for name in CONFIGS[:1] if adapter else CONFIGS[1:]:
        beside = path.with_name(name)
        if not beside.is_file():
            continue
        try:
            found = json.loads(beside.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise BadCheckpoint(f"its {name} cannot be read ({error})") from error
        if not isinstance(found, dict):
            raise BadCheckpoint(f"its {name} holds no settings")
        return found
    if adapter:
        raise BadCheckpoint("it is an adapter without its adapter_config.json beside it")
    return {}


def _opener(head: bytes, path: Path) -> Callable[[Path], Opened]:
    """What opens a file that begins like this."""
    if head.startswith(b"PK\x03\x04"):
        return lambda one: _torch(open_zip(one), "torch.save's zip")
    if head.startswith(b"\x80"):
        return lambda one: _torch(open_stream(one), "torch.save's old stream")
    if head[8:9] == b"{":
        return _safetensors
    for start, what in STRANGERS.items():
        if head.startswith(start[:SMALLEST]):
            raise BadCheckpoint(f"it is {what}")
    size = path.stat().st_size
    raise BadCheckpoint(
        f"it is no checkpoint ({size} bytes that begin with {head[:8]!r}); give a file of "
        "torch.save or safetensors, or a folder of transformers, open_clip or peft"
    )


def _torch(archive: Archive, kind: str) -> Opened:
    """A file of torch.save."""
    views, beside = tensors_of(archive.root)
    said = said_by_tree(archive.root)
    loaded: Callable[[str], Tensor] = lambda name: _view(views, name).load(archive)  # noqa: E731
    whole = "whole model" if said.classes else "state dict"
    return tuple(views), loaded, tuple(beside), said, f"{whole} in {kind}"


def _view(views: Mapping[str, View], name: str) -> View:
    return views[name]


def _safetensors(path: Path) -> Opened:
    """A safetensors file; its own header bounds what is read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names, said = tuple(file.keys()), dict(file.metadata() or {})
    except SafetensorError as error:
        raise BadCheckpoint(f"it is a broken safetensors file ({error})") from error

    def load(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)

    return names, load, (), Said(activation=said.get("activation")), "safetensors"
