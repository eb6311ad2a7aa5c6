"""The two containers of torch.save, zip and the older stream, opened without torch.load."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.checkpoints.inert import read_pickle
from benchmark.checkpoints.names import Named
from benchmark.errors import BadCheckpoint

STREAM_MAGIC, STREAM_VERSION = 0x1950A86A20F9469CFC6C, 1001
"""What a file of torch.save begins with if it is no zip."""
LARGEST_PICKLE = 2**28
"""Bytes of the pickle in a zip, which holds no numbers; a ViT-L/14's has less than one MiB."""
DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
WIDTHS = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2}
WIDTHS |= {"int16": 2, "int8": 1, "uint8": 1, "bool": 1}


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers that tensors are views of: `count` of `dtype`, found under `key`."""

    dtype: str
    key: str
    count: int

    @property
    def size(self) -> int:
        """In bytes."""
        return self.count * WIDTHS[self.dtype]


@dataclass(frozen=True, slots=True)
class Archive:
    """A file of torch.save: its inert tree, and a way to the bytes of a storage."""

    root: Any
    read: Callable[[Storage], bytearray]


def open_zip(path: Path) -> Archive:
    """A zip of torch.save (torch 1.6 and later). Nothing is unpacked to the disk.

    Raises:
        BadCheckpoint: it is broken, or not what torch.save writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _checked(archive.infolist(), path.stat().st_size)
            folder = _folder(members)
            pickle = archive.read(members[f"{folder}data.pkl"])
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        raise BadCheckpoint(f"it is a broken zip, perhaps cut off ({error})") from error

    def read(storage: Storage) -> bytearray:
        name = f"{folder}data/{storage.key}"
        if name not in members or members[name].file_size < storage.size:
            raise BadCheckpoint(f"its tensor data {storage.key!r} is not there in full")
        try:
            with zipfile.ZipFile(path) as archive:
                return bytearray(archive.read(members[name]))
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise BadCheckpoint(f"its tensor data {storage.key!r} is broken ({error})") from error

    return Archive(read_pickle(io.BytesIO(pickle), stored), read)


def _checked(infos: Sequence[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """Members by name, if they are such as torch.save writes."""
    members = {info.filename: info for info in infos}
    if len(members) < len(infos):
        raise BadCheckpoint("it is a zip that holds a name twice; torch.save writes none")
    for info in infos:
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise BadCheckpoint(f"it is a zip with the path {info.filename!r}, which leads out")
        if info.external_attr >> 28 == 0xA:
            raise BadCheckpoint(f"it is a zip with the symbolic link {info.filename!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise BadCheckpoint(
                f"it is a zip with the compressed or encrypted member {info.filename!r}; "
                "torch.save writes neither"
            )
    declared = sum(info.file_size for info in infos)
    if declared > size:
        raise BadCheckpoint(f"it is a zip of {size} bytes that claims to hold {declared}")
    return members


def _folder(members: dict[str, zipfile.ZipInfo]) -> str:
    """The folder all is in, with its slash."""
    found = [name for name in members if name.endswith("data.pkl") and name.count("/") <= 1]
    if len(found) != 1:
        raise BadCheckpoint("it is a zip without one data.pkl, so torch.save did not write it")
    folder = found[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") for name in members):
        raise BadCheckpoint(
            "it is a TorchScript archive, which is a program; load it where you trust it and "
            "save its state_dict()"
        )
    if members[found[0]].file_size > LARGEST_PICKLE:
        raise BadCheckpoint(f"its data.pkl has more than {LARGEST_PICKLE} bytes")
    return folder


def open_stream(path: Path) -> Archive:
    """A file of torch.save before torch 1.6: pickles one after the other, then the numbers.

    Raises:
        BadCheckpoint: it is broken, or torch.save did not write it.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    dtypes: dict[str, str] = {}

    def noted(pid: Any) -> Any:
        found = stored(pid)
        if isinstance(found, Storage) and dtypes.setdefault(found.key, found.dtype) != found.dtype:
            raise ValueError(f"its tensor data {found.key!r} has two types")
        return found

    if read_pickle(data, stored) != STREAM_MAGIC:
        raise BadCheckpoint("it is a pickle that torch.save did not write")
    version, _ = read_pickle(data, stored), read_pickle(data, stored)
    if version != STREAM_VERSION:
        raise BadCheckpoint(f"it is of version {version!r} of the old format, not {STREAM_VERSION}")
    root, keys = read_pickle(data, noted), read_pickle(data, stored)
    places = _places(data, keys, dtypes)

    def read(storage: Storage) -> bytearray:
        start, size = places.get(storage.key, (0, -1))
        if size < storage.size:
            raise BadCheckpoint(f"its tensor data {storage.key!r} is not there in full")
        return bytearray(data[start : start + size])

    return Archive(root, read)


def _places(data: mmap.mmap, keys: Any, dtypes: dict[str, str]) -> dict[str, tuple[int, int]]:
    """Storage -> (where its bytes start, how many): each has its count of numbers before it."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise BadCheckpoint("its list of tensor data is none")
    places: dict[str, tuple[int, int]] = {}
    at = data.tell()
    for key in keys:
        head = data[at : at + 8]
        count = struct.unpack("<q", head)[0] if len(head) == 8 else -1
        size = count * WIDTHS[dtypes.get(key, "uint8")]
        if count < 0 or at + 8 + size > len(data):
            raise BadCheckpoint("it is cut off: the tensor data is not there in full")
        places[key] = at + 8, size
        at += 8 + size
    return places


def stored(pid: Any) -> Storage | Named:
    """What torch.save's persistent ids stand for: a storage or, in old files, a module's class.

    Raises:
        ValueError: any other id.
    """
    kind, *rest = pid if isinstance(pid, tuple) and pid else (None,)
    if kind == "module" and len(rest) == 3 and isinstance(rest[0], Named):
        return rest[0]  # beside its source code, which is left alone
    if kind == "storage" and len(rest) in (4, 5):
        of, key, _, count = rest[:4]
        plain = isinstance(of, Named) and isinstance(key, str) and type(count) is int
        if plain and of.module == "torch" and of.name in DTYPES and count >= 0:
            if len(rest) == 5 and rest[4] is not None:
                raise ValueError("its tensor data has views of views, which only torch 0.x wrote")
            return Storage(DTYPES[of.name], key, count)
        if isinstance(of, Named):
            raise ValueError(f"it has tensor data of type {of}, which weights are not")
    raise ValueError("it has a persistent id that torch.save does not write")
