"""Data sets on the Hugging Face hub, as parquet files of encoded images."""

from __future__ import annotations

import io
import json
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from benchmark.components import component
from benchmark.data.samples import Picture, Samples
from benchmark.data.words import Words
from benchmark.errors import BenchError

ParquetFile: TypeAlias = Any
"""pyarrow's, which is an extra."""
KEPT = 4
"""Row groups that stay in memory."""


@component
class Hub:
    """`[CONFIG/]NAME-00000-of-00001.parquet`, ...: a column of images, one of labels.

    Labels follow the data set's words by name where the file names its classes in another order.

    Attributes:
        repo: id on the hub.
        config: folder of the files in the repository.
        train: name of the part that is train.
        test: name of the part that is test.
        image: column of images, each `{bytes, path}`.
        label: column of whole numbers.
    """

    version: ClassVar[int] = 1
    repo: str
    config: str
    train: str
    test: str
    image: str
    label: str

    @property
    def patterns(self) -> tuple[str, ...]:
        """What to download of the repository."""
        return tuple(f"{self.config}/{part}-*.parquet" for part in (self.train, self.test))

    def find(self, base: Path) -> Path | None:
        """The folder of the parquet files."""
        for folder in (base / self.config, base):
            if all(list(folder.glob(f"{part}-*.parquet")) for part in (self.train, self.test)):
                return folder.resolve()
        return None

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        named = {"train": self.train, "test": self.test}
        return {part: self._part(found, name, words) for part, name in named.items()}

    def _part(self, found: Path, name: str, words: Words) -> Samples:
        shards = [_open(path) for path in sorted(found.glob(f"{name}-*.parquet"))]
        try:
            columns = [one.read(columns=[self.label]).column(self.label) for one in shards]
            labels = np.concatenate([one.to_numpy() for one in columns]).astype(np.int64)
        except (KeyError, ValueError, TypeError) as error:
            raise BenchError(
                f"{found}/{name}-*.parquet has no column '{self.label}' of whole numbers; "
                "set dataset.NAME.hub.label"
            ) from error
        order = label_order(class_names(shards[0], self.label), words)
        labels = labels if order is None else order[labels]
        rows = _Rows(shards, self.image)
        return Samples(labels, rows.read, lambda row: f"{found}/{name}-*.parquet, row {row}")


class _Rows:
    """Random access to the images of some files: a row group is read at once and kept a while."""

    def __init__(self, shards: Sequence[ParquetFile], column: str) -> None:
        groups = [
            (shard, group, shard.metadata.row_group(group).num_rows)
            for shard in shards
            for group in range(shard.metadata.num_row_groups)
        ]
        self.ends = list(accumulate(count for _, _, count in groups))
        self.starts = [0, *self.ends[:-1]]
        self.lock = threading.Lock()

        @lru_cache(maxsize=KEPT)
        def group(index: int) -> Any:
            shard, number, _ = groups[index]
            return shard.read_row_group(number, columns=[column]).column(column)

        self.group = group

    def read(self, row: int) -> Picture:
        """The image in a row."""
        from PIL import Image

        index = bisect_right(self.ends, row)
        with self.lock:
            value = self.group(index)[row - self.starts[index]].as_py()
        content = value["bytes"] if isinstance(value, Mapping) else value
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return image


def _open(path: Path) -> ParquetFile:
    try:
        import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]
        from pyarrow import ArrowException  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BenchError(f"{path} needs pyarrow: pip install 'lfpm-bench[data]'") from error
    try:
        return pq.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise BenchError(f"{path} is not a parquet file ({error}); fetch it again") from error


def class_names(shard: ParquetFile, label: str) -> list[str] | None:
    """The names of the classes by number, if the file has them where `datasets` writes them."""
    meta = shard.schema_arrow.metadata or {}
    features = json.loads(meta.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return features.get(label, {}).get("names")


def label_order(names: Sequence[str] | None, words: Words) -> np.ndarray | None:
    """Our label of each of the file's, (classes,); None where names cannot be compared.

    Raises:
        BenchError: the file has another number of classes.
    """
    if names is None:
        return None
    if len(names) != len(words.classnames):
        raise BenchError(
            f"the file has {len(names)} classes, the data set's words {len(words.classnames)}; "
            "it is another edition"
        )
    for known in (words.classnames, words.folders):
        place = {_plain(name): label for label, name in enumerate(known)}
        if len(place) == len(known) and {_plain(name) for name in names} == place.keys():
            return np.array([place[_plain(name)] for name in names], np.int64)
    return None


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
