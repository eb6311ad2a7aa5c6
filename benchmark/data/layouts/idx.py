"""MNIST's file format (LeCun et al. 1998): big-endian idx files, packed with gzip or not."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.samples import Samples, first, of_arrays
from benchmark.data.words import Words
from benchmark.errors import BenchError


@component
class Idx:
    """Greyscale images and labels in two files per part.

    Attributes:
        folders: where the files may be, below the data set's folder.
        train: names of the files of images and of labels; each may end in ".gz".
        test: as `train`.
        first_label: which number means class 0.
        transposed: whether an image's first axis is its width (EMNIST).
    """

    version: ClassVar[int] = 1
    folders: tuple[str, ...]
    train: tuple[str, str]
    test: tuple[str, str]
    first_label: int
    transposed: bool

    def find(self, base: Path) -> Path | None:
        """The folder of the train images."""
        return first(base, self.folders, [self.train[0], f"{self.train[0]}.gz"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        return {"train": self._part(found, *self.train), "test": self._part(found, *self.test)}

    def _part(self, found: Path, images: str, labels: str) -> Samples:
        pixels = read_idx(found / images, 3)
        if self.transposed:
            pixels = pixels.transpose(0, 2, 1)
        numbers = read_idx(found / labels, 1).astype(np.int64) - self.first_label
        return of_arrays(np.ascontiguousarray(pixels), numbers, str(found / images))


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The uint8 array in an idx file, or in the same name with ".gz".

    Raises:
        BenchError: neither is there, or its header says something else than its bytes.
    """
    packed = path.with_name(f"{path.name}.gz")
    try:
        raw = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError) as error:
        raise BenchError(f"{path}(.gz) cannot be read ({error}); fetch it again") from error
    shape = [int(one) for one in np.frombuffer(raw[4 : 4 + 4 * axes], ">u4")]
    body = np.frombuffer(raw, np.uint8, offset=min(4 + 4 * axes, len(raw)))
    if raw[:4] != bytes([0, 0, 8, axes]) or len(body) != np.prod(shape, dtype=np.int64):
        raise BenchError(f"{path} is not an idx file of {axes} axes, or cut off; fetch it again")
    return body.reshape(shape)
