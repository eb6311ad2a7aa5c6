"""One folder per class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchmark.components import component
from benchmark.data.samples import Samples, class_folders, lines
from benchmark.data.words import Words
from benchmark.errors import BenchError

NAMES = "classnames.txt"
DEV = ("dev", "val", "valid", "validation")


@component
class Folder:
    """`train/CLASS/*`, `test/CLASS/*` and, if there is one, `dev/CLASS/*` (or val).

    Without `test`, `val` is the test part, as in ImageNet. A folder's label is its line in
    `classnames.txt` (its name, then perhaps a space and words for people), or else its place among
    the folders that the data set's words name.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """`base`, if it has class folders in train and in test (or val)."""
        found = _folders(base)
        return base.resolve() if {"train", "test"} <= found.keys() else None

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train, test and perhaps dev."""
        folders = _labelled(found, words)
        return {part: class_folders(path, folders) for part, path in _folders(found).items()}


@component
class Parts:
    """One folder per official part with one folder per class in it.

    Attributes:
        folders: where those of the parts may be, below the data set's folder.
        train: name of the train part's folder.
        test: of the test part's; other parts are not used.
    """

    version: ClassVar[int] = 1
    folders: tuple[str, ...]
    train: str
    test: str

    def find(self, base: Path) -> Path | None:
        """The first of `folders` that has both parts."""
        both = (self.train, self.test)
        there = (base / name for name in self.folders)
        found = (top for top in there if all(_has_classes(top / part) for part in both))
        return next((top.resolve() for top in found), None)

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        named, folders = {"train": self.train, "test": self.test}, _labelled(found, words)
        return {part: class_folders(found / name, folders) for part, name in named.items()}


@component
class Pooled:
    """One folder per class and no official split.

    Attributes:
        folders: where they may be, below the data set's folder.
    """

    version: ClassVar[int] = 1
    folders: tuple[str, ...]

    def find(self, base: Path) -> Path | None:
        """The first of `folders` that has folders in it."""
        for name in self.folders:
            if (base / name).is_dir() and _has_classes(base / name):
                return (base / name).resolve()
        return None

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Everything, as "all"."""
        return {"all": class_folders(found, _labelled(found, words))}


def _folders(base: Path) -> dict[str, Path]:
    """Part -> its folder, of those that have folders in them."""
    there = {name: base / name for name in ("train", "test", *DEV) if _has_classes(base / name)}
    held = next((there[name] for name in DEV if name in there), None)
    parts = {name: there[name] for name in ("train", "test") if name in there}
    if held is not None:
        parts["dev" if "test" in parts else "test"] = held
    return parts


def _has_classes(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())


def _labelled(found: Path, words: Words) -> tuple[str, ...]:
    """The folders by label."""
    if not (found / NAMES).exists():
        return words.folders
    named = tuple(line.split()[0] for line in lines(found / NAMES))
    if len(named) != len(words.folders):
        raise BenchError(
            f"{found / NAMES} names {len(named)} folders, but the data set's words name "
            f"{len(words.folders)} classes; they must be as many"
        )
    return named
