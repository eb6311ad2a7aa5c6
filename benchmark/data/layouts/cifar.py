"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), the "python version": pickles of Python 2."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.samples import Samples, first, joined, of_arrays, require
from benchmark.data.words import Words
from benchmark.errors import BenchError

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # pyright: ignore[reportIndexIssue]
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # pyright: ignore[reportIndexIssue]
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
"""All that these files need: arrays, and the built-in types that a pickle has words for."""


@component
class Cifar:
    """Batches of 32 x 32 RGB images, planes of red, green and blue.

    Attributes:
        folder: what the archive unpacks to.
        train: files of the train part.
        test: files of the test part.
        key: under which the labels are.
    """

    version: ClassVar[int] = 1
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    key: str

    def find(self, base: Path) -> Path | None:
        """The folder that the archive unpacks to."""
        return first(base, [self.folder], [self.test[0]])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test, batch after batch."""
        return {
            "train": joined([self._batch(found / name) for name in self.train]),
            "test": joined([self._batch(found / name) for name in self.test]),
        }

    def _batch(self, path: Path) -> Samples:
        batch = read_pickle(require(path))
        try:
            images = np.asarray(batch["data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.asarray(batch[self.key])
        except (KeyError, TypeError, ValueError) as error:
            raise BenchError(
                f"{path} has no 'data' and '{self.key}' as CIFAR has; fetch it again"
            ) from error
        return of_arrays(np.ascontiguousarray(images), labels, str(path))


class _Reader(pickle.Unpickler):
    """An unpickler that can make arrays and nothing else: a pickle is a program."""

    def find_class(self, module: str, name: str) -> Any:
        """One of `ALLOWED`."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no image file needs")
        return ALLOWED[module, name]


def read_pickle(path: Path) -> Any:
    """The content of a pickle of arrays, lists, dicts, numbers and strings.

    Raises:
        BenchError: it is not a pickle, or one that would call anything else; nothing was called.
    """
    try:
        with path.open("rb") as file:
            return _Reader(file, encoding="latin1").load()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise BenchError(f"{path} is not a safe pickle ({error}); fetch it again") from error
