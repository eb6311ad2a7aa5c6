"""Decoded images of a published data set: memory-mapped uint8 arrays with an index that vouches.

A folder `<name>-<size>-<digest>` below `benchmark.data.places.decoded_root()` holds per split
`<split>.npy`, images (n,3,S,S) uint8, and `<split>.labels.npy`, (n,) int64, and `index.json`, which
is written last: decoded is what has an index. The digest is that of the rules by which splits are
made; the index holds a fingerprint of what was decoded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import BenchError
from benchmark.store import file_sha256

INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Split:
    """What the index says of one split.

    Attributes:
        counts: images per label.
        fingerprint: sha256 of its pictures before they were resized, and labels, in order:
            `benchmark.data.decode.fingerprint`.
        sha256: of the bytes of its two files, see `files_sha256`.
    """

    counts: tuple[int, ...]
    fingerprint: str
    sha256: str

    @property
    def images(self) -> int:
        """How many images it has."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Index:
    """What is known of a decoded data set.

    Attributes:
        folder: where its arrays are.
        source: where its files were, and in which layout.
        splits: by name.
        left_out: pictures that could not be read and that the user agreed to leave out.
    """

    folder: Path
    source: str
    splits: Mapping[str, Split]
    left_out: tuple[str, ...]


def read_index(folder: Path) -> Index | None:
    """The index of a folder of decoded images, or None if there is none."""
    path = folder / INDEX
    return _read(path, path.stat().st_mtime_ns) if path.exists() else None


@cache
def _read(path: Path, changed: int) -> Index:
    """Read once per state of the file."""
    try:
        body: dict[str, Any] = json.loads(path.read_text())
        splits = {
            name: Split(tuple(one["counts"]), one["fingerprint"], one["sha256"])
            for name, one in body["splits"].items()
        }
        return Index(path.parent, body["source"], splits, tuple(body["left_out"]))
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"{path} is not an index of decoded images ({error}); remove {path.parent} and decode "
            "again"
        ) from error


def files_sha256(folder: Path, split: str) -> str:
    """Hex sha256 over the hashes of a split's images and labels as they lie on disk."""
    names = (f"{split}.npy", f"{split}.labels.npy")
    return hashlib.sha256("".join(file_sha256(folder / n) for n in names).encode()).hexdigest()


def open_split(index: Index, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (n,3,S,S) uint8, mapped from disk (writing changes no file), and labels (n,) int64.

    Raises:
        BenchError: no such split, or files that the index does not describe.
    """
    if split not in index.splits:
        raise BenchError(f"no split {split!r}; there are {', '.join(index.splits)}")
    count = index.splits[split].images
    try:
        # Copy on write, because torch warns of memory that it may not write to.
        images = np.load(index.folder / f"{split}.npy", mmap_mode="c", allow_pickle=False)
        labels = np.load(index.folder / f"{split}.labels.npy", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(index, split, str(error)) from error
    if len(images) != count or len(labels) != count:
        raise _damaged(index, split, f"{len(images)} images instead of {count}")
    return images, labels


def _damaged(index: Index, split: str, what: str) -> BenchError:
    return BenchError(
        f"decoded images in {index.folder} are damaged ({split}: {what}); remove that folder and "
        "decode again with `lfpm-bench data decode`"
    )
