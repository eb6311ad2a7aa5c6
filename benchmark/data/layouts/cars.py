"""Stanford Cars (Krause et al. 2013): images and a devkit of .mat files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.layouts.matlab import read_mat
from benchmark.data.samples import Samples, first, of_files
from benchmark.data.words import Words
from benchmark.errors import BenchError


@component
class Cars:
    """`cars_train/*.jpg`, `cars_test/*.jpg`, `devkit/cars_train_annos.mat`, and the test labels.

    The devkit's own annotations of the test part have no classes; those are in
    `cars_test_annos_withlabels.mat`, beside the devkit or in it.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder in which `devkit` is."""
        return first(base, ["stanford_cars"], ["devkit/cars_train_annos.mat"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test, in the order of the annotations."""
        name = "cars_test_annos_withlabels.mat"
        inside = found / "devkit" / name
        labelled = inside if inside.exists() else found / name
        train = found / "devkit" / "cars_train_annos.mat"
        return {
            "train": _part(train, found / "cars_train"),
            "test": _part(labelled, found / "cars_test"),
        }


def _part(path: Path, images: Path) -> Samples:
    rows = np.atleast_1d(read_mat(path, "annotations")["annotations"])
    if not {"class", "fname"} <= set(rows.dtype.names or ()):
        raise BenchError(f"{path} has annotations without class and fname; fetch it again")
    return of_files(
        [images / str(row["fname"]) for row in rows], [int(row["class"]) - 1 for row in rows]
    )
