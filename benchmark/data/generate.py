"""Draws a whole split, with several processes where that pays.

Workers are plain `python -m benchmark.data.generate` children that read a job as JSON and write
arrays: unlike `multiprocessing` this works from a daemonic worker, needs no importable `__main__`
and never forks a process that holds torch's threads.
"""

from __future__ import annotations

import concurrent.futures
import io
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

import numpy as np

from benchmark.components import build, values

CHUNK = 250
"""Images between two progress reports."""

Progress = Callable[[int, int], None]


class Dataset(Protocol):
    """A task of a suite: what every class in `benchmark.data` offers."""

    @property
    def classnames(self) -> tuple[str, ...]:
        """Names by label."""
        ...

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts with "{}" in the name's place."""
        ...

    @property
    def sizes(self) -> dict[str, int]:
        """Images per split."""
        ...

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64, from `start` to `stop`."""
        ...


def generate(
    dataset: Dataset, split: str, *, processes: int, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draws every image of a split; the result does not depend on `processes`.

    Args:
        dataset: The data set.
        split: One of its splits.
        processes: How many to draw with; 1 stays in this process.
        progress: Called with (images done, images in all), from any thread.

    Returns:
        Images (n,3,32,32) uint8 and labels (n,) int64.
    """
    if split not in dataset.sizes:
        raise ValueError(f"no split {split!r}; there are {', '.join(dataset.sizes)}")
    total = dataset.sizes[split]
    report = _counter(total, progress)
    edges = np.linspace(0, total, min(processes, -(-total // CHUNK)) + 1).astype(int).tolist()
    shares = list(itertools.pairwise(edges))
    if len(shares) == 1:
        parts = [list(_chunks(dataset, split, 0, total, report))]
    else:
        with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool:
            jobs = [pool.submit(_remote, dataset, split, *share, report) for share in shares]
            parts = [job.result() for job in jobs]
    images, labels = zip(*(chunk for part in parts for chunk in part), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    done, lock = 0, threading.Lock()

    def count(images: int) -> None:
        nonlocal done
        with lock:
            done += images
            if progress is not None:
                progress(done, total)

    return count


def _chunks(
    dataset: Dataset, split: str, start: int, stop: int, report: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for first in range(start, stop, CHUNK):
        last = min(first + CHUNK, stop)
        yield dataset(split, first, last)
        report(last - first)


def _remote(
    dataset: Dataset, split: str, start: int, stop: int, report: Callable[[int], None]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws one share in a child process."""
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "benchmark.data.generate"]
    job = {"dataset": _node(dataset), "split": split, "start": start, "stop": stop}
    chunks = []
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(json.dumps(job).encode())
        child.stdin.close()
        for _ in range(start, stop, CHUNK):
            images, labels = _receive(child.stdout), _receive(child.stdout)
            if images is None or labels is None:
                reason = child.stderr.read().decode().strip()
                raise RuntimeError(f"a worker that draws {split} failed: {reason}")
            chunks.append((images, labels))
            report(len(labels))
    return chunks


def _node(dataset: Dataset) -> dict[str, Any]:
    """The data set as JSON that `benchmark.components.build` reads."""
    return {
        "_target_": f"{type(dataset).__module__}.{type(dataset).__qualname__}",
        **values(dataset),
    }


def _send(stream: BinaryIO, array: np.ndarray) -> None:
    """Writes one array with its length before it."""
    memory = io.BytesIO()
    np.save(memory, array, allow_pickle=False)
    stream.write(memory.tell().to_bytes(8, "little") + memory.getvalue())


def _receive(stream: IO[bytes]) -> np.ndarray | None:
    """Reads what `_send` wrote, or None if the stream ended."""
    size = int.from_bytes(stream.read(8), "little")
    content = stream.read(size)
    if not size or len(content) < size:
        return None
    return np.load(io.BytesIO(content), allow_pickle=False)


def _serve() -> None:
    """Reads one job from standard input and writes its chunks to standard output."""
    job = json.load(sys.stdin)
    dataset = build(job["dataset"], "dataset")
    for chunk in _chunks(dataset, job["split"], job["start"], job["stop"], lambda images: None):
        for array in chunk:
            _send(sys.stdout.buffer, array)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
