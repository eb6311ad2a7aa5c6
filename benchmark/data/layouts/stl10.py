"""STL-10 (Coates et al. 2011): raw bytes, 96 x 96, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.samples import Samples, first, of_arrays, require
from benchmark.data.words import Words
from benchmark.errors import BenchError

SIDE = 96


@component
class Stl10:
    """`train_X.bin` and `test_X.bin`, labels 1 to 10 in `train_y.bin` and `test_y.bin`."""

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder that the archive unpacks to."""
        return first(base, ["stl10_binary"], ["test_X.bin"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        return {part: _part(found, part) for part in ("train", "test")}


def _part(found: Path, part: str) -> Samples:
    path = require(found / f"{part}_X.bin")
    pixels = np.memmap(path, np.uint8, mode="r")
    if len(pixels) % (3 * SIDE * SIDE):
        raise BenchError(f"{path} is cut off: {len(pixels)} bytes are no whole number of images")
    images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)
    labels = np.fromfile(require(found / f"{part}_y.bin"), np.uint8).astype(np.int64) - 1
    return of_arrays(images, labels, str(path))
