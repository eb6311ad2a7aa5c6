"""PatchCamelyon (Veeling et al. 2018): HDF5 files."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.samples import Samples, first, require
from benchmark.data.words import Words
from benchmark.errors import BenchError

FILE = "camelyonpatch_level_2_split_{}_{}.h5"


@component
class Pcam:
    """`camelyonpatch_level_2_split_{train,test}_{x,y}.h5`: `x` (n,96,96,3) and `y` (n,1,1,1).

    The official validation part is not used: dev is cut out of train, as everywhere.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder of the files, unpacked."""
        return first(base, ["pcam"], [FILE.format("test", "x")])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        return {part: _part(found, part) for part in ("train", "test")}


def _part(found: Path, part: str) -> Samples:
    try:
        import h5py  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BenchError("pcam needs h5py: pip install 'lfpm-bench[data]'") from error
    x, y = (require(found / FILE.format(part, axis)) for axis in "xy")
    try:
        images = h5py.File(x, "r")["x"]
        with h5py.File(y, "r") as file:
            labels = np.asarray(file["y"]).reshape(-1).astype(np.int64)
    except (OSError, KeyError) as error:
        raise BenchError(f"{x} or {y.name} is not PCam's HDF5 ({error}); fetch it again") from error
    if len(images) != len(labels):
        raise BenchError(f"{x} and {y.name} differ in length; fetch both again")
    lock = threading.Lock()

    def read(row: int) -> np.ndarray:
        with lock:
            return np.asarray(images[row])

    return Samples(labels, read, lambda row: f"{x}, image {row}")
