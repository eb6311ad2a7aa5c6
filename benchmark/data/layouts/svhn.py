"""Street View House Numbers, cropped digits (Netzer et al. 2011): two .mat files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.layouts.matlab import read_mat
from benchmark.data.samples import Samples, first, of_arrays
from benchmark.data.words import Words


@component
class Svhn:
    """`X` (32,32,3,n) and `y` (n,1), where 10 means the digit 0."""

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder of the two files."""
        return first(base, ["svhn"], ["test_32x32.mat"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        return {part: _part(found / f"{part}_32x32.mat") for part in ("train", "test")}


def _part(path: Path) -> Samples:
    body = read_mat(path, "X", "y")
    images = np.ascontiguousarray(np.moveaxis(body["X"], -1, 0))
    return of_arrays(images, np.asarray(body["y"]).reshape(-1) % 10, str(path))
