"""Labelled pictures that are read one by one, and what a layout of files is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

import numpy as np

from benchmark.errors import BenchError

if TYPE_CHECKING:
    from PIL import Image

    from benchmark.data.words import Words

Picture: TypeAlias = "Image.Image | np.ndarray"
"""What a file or a row holds: a PIL image, or uint8 (H,W) or (H,W,3)."""
IMAGES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".webp", ".tif", ".tiff"})


@dataclass(frozen=True, slots=True)
class Samples:
    """The pictures of one official part of a data set, in its own order.

    Attributes:
        labels: (n,) int64.
        read: row -> the picture; may be called from several threads.
        name: row -> how messages call the picture.
    """

    labels: np.ndarray
    read: Callable[[int], Picture]
    name: Callable[[int], str]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.labels)


class Layout(Protocol):
    """How a data set's files lie in a folder; built from the YAML of the data set."""

    version: ClassVar[int]

    def find(self, base: Path) -> Path | None:
        """The folder in or below `base` where its files start; None if they are not there."""
        ...

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Part -> samples: "train" and "test" (and maybe "dev"), or "all" if none is official.

        Raises:
            BenchError: a file that belongs there is missing or is not what it should be.
        """
        ...


def first(base: Path, folders: Sequence[str], marks: Sequence[str]) -> Path | None:
    """The first of `base/folder` and `base` itself that holds one of `marks`."""
    for folder in (*folders, "."):
        if any((base / folder / mark).exists() for mark in marks):
            return (base / folder).resolve()
    return None


def require(path: Path) -> Path:
    """The path, if it is there.

    Raises:
        BenchError: the copy is incomplete.
    """
    if not path.exists():
        raise BenchError(f"{path} is missing: the copy is incomplete; fetch it again")
    return path


def of_files(paths: Sequence[Path], labels: Sequence[int] | np.ndarray) -> Samples:
    """Samples of one image file each."""
    return Samples(
        np.asarray(labels, np.int64),
        lambda row: read_image(paths[row]),
        lambda row: str(paths[row]),
    )


def of_arrays(images: np.ndarray, labels: np.ndarray, where: str) -> Samples:
    """Samples of one array (n,H,W) or (n,H,W,3) uint8; `where` is the file, for messages."""
    if len(images) != len(labels) or images.dtype != np.uint8:
        raise BenchError(
            f"{where} holds {len(images)} images of {images.dtype} and {len(labels)} labels; "
            "one label per image of uint8 is needed: fetch it again"
        )
    rows = np.asarray(labels).astype(np.int64)
    return Samples(rows, lambda row: images[row], lambda row: f"{where}, image {row}")


def joined(parts: Sequence[Samples]) -> Samples:
    """Several samples as one, in this order."""
    ends = np.cumsum([len(part) for part in parts])

    def place(row: int) -> tuple[Samples, int]:
        index = int(np.searchsorted(ends, row, side="right"))
        return parts[index], row - int(ends[index] - len(parts[index]))

    def read(row: int) -> Picture:
        part, inner = place(row)
        return part.read(inner)

    def name(row: int) -> str:
        part, inner = place(row)
        return part.name(inner)

    return Samples(np.concatenate([part.labels for part in parts]), read, name)


def read_image(path: Path) -> Image.Image:
    """The image in a file, decoded."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image


def class_folders(root: Path, folders: Sequence[str]) -> Samples:
    """All images in `root/<folder of the label>`, sorted by label, then by path.

    Raises:
        BenchError: a class has no folder or a folder no class, so that labels would be shifted.
    """
    there = {path.name for path in root.iterdir() if path.is_dir() and path.name[0] != "."}
    if missing := [name for name in folders if name not in there]:
        listed = ", ".join(missing[:3])
        raise BenchError(
            f"{root} has no folder for {len(missing)} of {len(folders)} classes ({listed}); "
            "fetch it again, or name the folders by label in classnames.txt"
        )
    paths, labels = [], []
    for label, name in enumerate(folders):
        found = sorted(p for p in (root / name).rglob("*") if p.suffix.lower() in IMAGES)
        paths += found
        labels += [label] * len(found)
    return of_files(paths, labels)


def lines(path: Path) -> list[str]:
    """The lines of a text file that is part of the data set, stripped; empty ones left out."""
    return [line.strip() for line in require(path).read_text().splitlines() if line.strip()]
