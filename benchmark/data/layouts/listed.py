"""Data sets whose parts are text files that list images: RESISC45, DTD, SUN397, Pets, Food-101."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchmark.components import component
from benchmark.data.samples import Samples, first, joined, lines, of_files, require
from benchmark.data.words import Words
from benchmark.errors import BenchError


@component
class Resisc45:
    """`NWPU-RESISC45/CLASS/CLASS_001.jpg` and `resisc45-{train,test}.txt`, lists of file names.

    The lists are those published with TorchGeo (after Neumann et al. 2020): 60, 20 and 20 %. As in
    Task Arithmetic the list of the validation part is not used.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder in which `NWPU-RESISC45` is."""
        return first(base, ["resisc45"], ["NWPU-RESISC45"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        root, listed = found / "NWPU-RESISC45", {}
        for part in ("train", "test"):
            names = lines(found / f"resisc45-{part}.txt")
            classes = [name.rsplit("_", 1)[0] for name in names]
            labels = labels_of(classes, words.folders, found / f"resisc45-{part}.txt")
            paths = [root / folder / name for folder, name in zip(classes, names, strict=True)]
            listed[part] = of_files(paths, labels)
        return listed


@component
class Dtd:
    """Describable Textures (Cimpoi et al. 2014): `images/CLASS/*` and `labels/train1.txt`, ....

    The first of ten official partitions. Train is its train and its val list, as in Task
    Arithmetic.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder in which `images` and `labels` are."""
        return first(base, ["dtd/dtd", "dtd"], ["labels/test1.txt"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        listed = {}
        for part in ("train", "val", "test"):
            path = found / "labels" / f"{part}1.txt"
            names = lines(path)
            labels = labels_of([name.split("/")[0] for name in names], words.folders, path)
            listed[part] = of_files([found / "images" / name for name in names], labels)
        return {"train": joined([listed["train"], listed["val"]]), "test": listed["test"]}


@component
class Sun397:
    """SUN397 (Xiao et al. 2010): `a/abbey/sun_*.jpg`, `ClassName.txt`, `Training_01.txt`, ....

    The first of ten official partitions; its lists may be in a folder `Partitions`. Labels are
    places in `ClassName.txt`.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder of `ClassName.txt`, which the images' archive brings."""
        return first(base, ["SUN397", "sun397/SUN397"], ["ClassName.txt"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        classes = tuple(lines(found / "ClassName.txt"))
        listed = {}
        for part, name in (("train", "Training_01.txt"), ("test", "Testing_01.txt")):
            places = [folder / name for folder in (found, found / "Partitions", found.parent)]
            path = next((one for one in places if one.exists()), places[0])
            images = lines(path)
            labels = labels_of([one.rpartition("/")[0] for one in images], classes, path)
            listed[part] = of_files([found / one.lstrip("/") for one in images], labels)
        return listed


@component
class Pets:
    """Oxford-IIIT Pet (Parkhi et al. 2012): `images/*.jpg`, `annotations/{trainval,test}.txt`.

    A line of a list has a name, a class from 1 to 37, and two columns that are not used.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder in which `annotations` is."""
        return first(base, ["oxford-iiit-pet"], ["annotations/trainval.txt"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        listed = {}
        for part, name in (("train", "trainval.txt"), ("test", "test.txt")):
            path = found / "annotations" / name
            rows = [line.split() for line in lines(path) if not line.startswith("#")]
            if any(len(row) < 2 or not row[1].isdigit() for row in rows):
                raise BenchError(f"{path} is not a list of names and classes; fetch it again")
            paths = [found / "images" / f"{row[0]}.jpg" for row in rows]
            listed[part] = of_files(paths, [int(row[1]) - 1 for row in rows])
        return listed


@component
class Food101:
    """Food-101 (Bossard et al. 2014): `images/CLASS/*.jpg` and `meta/{train,test}.json`."""

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder in which `meta` is."""
        return first(base, ["food-101"], ["meta/train.json"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test, in the order of the lists."""
        listed = {}
        for part in ("train", "test"):
            path = require(found / "meta" / f"{part}.json")
            names = [name for each in json.loads(path.read_text()).values() for name in each]
            labels = labels_of([name.split("/")[0] for name in names], words.folders, path)
            listed[part] = of_files([found / "images" / f"{one}.jpg" for one in names], labels)
        return listed


def labels_of(classes: list[str], known: tuple[str, ...], path: Path) -> list[int]:
    """The labels of images by the names of their classes, in a list at `path`."""
    label = {name: index for index, name in enumerate(known)}
    if strange := sorted(set(classes) - label.keys()):
        raise BenchError(
            f"{path} lists images of '{strange[0]}', which is none of the {len(known)} classes; "
            "it is another edition"
        )
    return [label[name] for name in classes]
