"""Decodes a published data set once: every picture to uint8 of one size, in parallel.

Threads suffice: Pillow lets go of the interpreter while it decodes and resizes.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmark.data.decoded import INDEX, Index, Split, files_sha256, read_index
from benchmark.data.real import Real, check_sizes
from benchmark.data.samples import Picture, Samples
from benchmark.data.splits import split_rows
from benchmark.errors import BenchError
from benchmark.store import write_atomic

if TYPE_CHECKING:
    from PIL import Image

Progress = Callable[[int, int], None]
Digest = bytes
AHEAD = 512
"""Pictures that are handed to the workers at a time."""


@dataclass(frozen=True)
class Unreadable:
    """Pictures of a data set that could not be decoded: "name: reason" of each."""

    pictures: tuple[str, ...]


def decode(
    dataset: Real,
    *,
    at: Path | None = None,
    workers: int | None = None,
    leave_out: bool = False,
    progress: Progress | None = None,
) -> Index | Unreadable:
    """Decode all splits, unless they are decoded already.

    Args:
        dataset: whose `image_size` is given.
        at: the folder its files are in; None: where data sets are looked for.
        workers: threads; None: one per processor.
        leave_out: go on without pictures that cannot be read; they are named in the index.
        progress: called with (pictures done, pictures in all).

    Returns:
        The index; or, if pictures could not be read and may not be left out, these, and nothing
        is kept.

    Raises:
        BenchError: the files are not there, incomplete, or not as many as they should be.
    """
    if (index := read_index(dataset.folder)) is not None:
        return index
    parts, source = read_parts(dataset, at)
    rows = split_rows(parts, dataset.split)
    planned = {name: Split((len(one),), "", "") for name, (_, one) in rows.items()}
    check_sizes(dataset.name, dataset.sizes, planned, 0)
    dataset.folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=dataset.folder.parent, prefix=f".{dataset.folder.name}."))
    try:
        made = _Decoder(dataset, scratch, workers or os.cpu_count() or 1, progress)
        splits = {name: made.split(name, parts[part], one) for name, (part, one) in rows.items()}
        if made.unreadable and not leave_out:
            return Unreadable(tuple(made.unreadable))
        told = {name: asdict(one) for name, one in splits.items()}
        body = {"source": source, "splits": told, "left_out": made.unreadable}
        write_atomic(scratch / INDEX, json.dumps(body, indent=1).encode())
        shutil.rmtree(dataset.folder, ignore_errors=True)  # the remains of one without an index
        scratch.replace(dataset.folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return dataset.index


def read_parts(dataset: Real, at: Path | None = None) -> tuple[Mapping[str, Samples], str]:
    """The official parts of a data set, and where they are, in which layout; nothing is decoded.

    Raises:
        BenchError: the files are not there, incomplete, or have labels without a class name.
    """
    if (source := dataset.source(at)) is None:
        raise BenchError(
            f"{at} has no {dataset.name} in a layout that is known: `lfpm-bench ls datasets -v`"
            if at
            else f"data set {dataset.absent()}"
        )
    found, layout = source
    parts = layout.parts(found, dataset.named)
    classes = len(dataset.classnames)
    for part in parts.values():
        if len(part) and (part.labels.min() < 0 or part.labels.max() >= classes):
            raise BenchError(
                f"{found} has labels {part.labels.min()} to {part.labels.max()}, but "
                f"dataset.{dataset.name}.words names {classes} classes; it is another edition"
            )
    return parts, f"{found} ({type(layout).__name__})"


class _Decoder:
    """Decodes split after split into a folder; `unreadable` grows."""

    def __init__(
        self, dataset: Real, folder: Path, workers: int, progress: Progress | None
    ) -> None:
        assert dataset.image_size is not None
        self.size = dataset.image_size
        self.folder = folder
        self.workers = workers
        self.total = sum(dataset.sizes.values())
        self.done = 0
        self.progress = progress
        self.classes = len(dataset.classnames)
        self.unreadable: list[str] = []

    def split(self, name: str, samples: Samples, rows: np.ndarray) -> Split:
        """Write one split: its images as they are decoded, its labels at the end."""
        shape = (len(rows), 3, self.size, self.size)
        path = self.folder / f"{name}.npy"
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        digests: list[Digest | None] = [None] * len(rows)
        # Neighbours in a file are read one after the other, whatever their place in the split.
        order = np.argsort(rows, kind="stable")

        def one(place: int) -> None:
            row = int(rows[place])
            try:
                picture = rgb(samples.read(row))
                digests[place] = picture_digest(picture, int(samples.labels[row]))
                images[place] = fitted(picture, self.size)
            except Exception as error:  # whatever a broken file makes a decoder say
                digests[place] = None
                reason = str(error).strip().splitlines() or [type(error).__name__]
                self.unreadable.append(f"{samples.name(row)}: {reason[0]}")

        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(rows), AHEAD):
                list(pool.map(one, order[start : start + AHEAD].tolist()))
                self.done += len(order[start : start + AHEAD])
                if self.progress is not None:
                    self.progress(self.done, self.total)
        images.flush()
        kept = [place for place, digest in enumerate(digests) if digest is not None]
        if len(kept) < len(rows):
            _keep(path, images, kept)
        labels = samples.labels[rows][kept]
        np.save(self.folder / f"{name}.labels.npy", labels, allow_pickle=False)
        counts = np.bincount(labels, minlength=self.classes).tolist()
        mark = fingerprint([one for one in digests if one is not None])
        return Split(tuple(counts), mark, files_sha256(self.folder, name))


def _keep(path: Path, images: np.ndarray, kept: Sequence[int]) -> None:
    """Write the file again with these images only."""
    shape = (len(kept), *images.shape[1:])
    fewer = path.with_suffix(".fewer")
    into = np.lib.format.open_memmap(fewer, mode="w+", dtype=np.uint8, shape=shape)
    for new, old in enumerate(kept):
        into[new] = images[old]
    into.flush()
    fewer.replace(path)


def rgb(picture: Picture) -> Image.Image:
    """A picture as a PIL image in RGB; greyscale, palette and CMYK are converted."""
    from PIL import Image

    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    return image if image.mode == "RGB" else image.convert("RGB")


def fitted(image: Image.Image, size: int) -> np.ndarray:
    """CLIP's preprocessing before normalisation, (3,size,size) uint8.

    As torchvision's Resize (bicubic, with antialiasing) and CenterCrop do it: the shorter side
    becomes `size`, the longer one is rounded down, the margin of the crop rounded to even.
    """
    from PIL import Image

    width, height = image.size
    if width <= height:
        shape = (size, int(size * height / width))
    else:
        shape = (int(size * width / height), size)
    large = image.resize(shape, Image.Resampling.BICUBIC) if shape != image.size else image
    left, top = (round((side - size) / 2) for side in shape)
    return np.asarray(large.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def picture_digest(image: Image.Image, label: int) -> Digest:
    """sha256 of an RGB image's size, its label and its pixels, before it is resized."""
    head = json.dumps([*image.size, label]).encode()
    return hashlib.sha256(head + image.tobytes()).digest()


def fingerprint(digests: Sequence[Digest]) -> str:
    """sha256 of the pictures' digests, in order: the same for the same pictures in any format."""
    return hashlib.sha256(b"".join(digests)).hexdigest()
