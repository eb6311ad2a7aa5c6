"""Oxford 102 Flowers (Nilsback and Zisserman 2008)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.layouts.matlab import read_mat
from benchmark.data.samples import Samples, first, of_files
from benchmark.data.words import Words


@component
class Flowers:
    """`jpg/image_00001.jpg`, ..., `imagelabels.mat` (classes from 1) and `setid.mat`.

    Train is the official train part of 1,020 images, as in BadMerging; `valid` is not used.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder of `setid.mat`."""
        return first(base, ["flowers-102"], ["setid.mat"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test, in the order of `setid.mat`."""
        labels = np.atleast_1d(read_mat(found / "imagelabels.mat", "labels")["labels"])
        rows = read_mat(found / "setid.mat", "trnid", "tstid")
        listed = {}
        for part, name in (("train", "trnid"), ("test", "tstid")):
            numbers = [int(one) for one in np.atleast_1d(rows[name])]
            paths = [found / "jpg" / f"image_{number:05d}.jpg" for number in numbers]
            listed[part] = of_files(paths, [int(labels[number - 1]) - 1 for number in numbers])
        return listed
