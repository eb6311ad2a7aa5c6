"""What is wrong with a published data set on this machine, and the exact fix."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmark.data.decode import fingerprint, picture_digest, read_parts, rgb
from benchmark.data.decoded import Index, files_sha256, open_split, read_index
from benchmark.data.real import Real, check_sizes
from benchmark.data.samples import Samples
from benchmark.data.splits import split_rows
from benchmark.errors import BenchError

State = Literal["ok", "not decoded", "missing", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One data set: its state, and in words what was found and what to do."""

    name: str
    state: State
    told: str


def status(dataset: Real) -> Finding:
    """Whether a data set can be used, from its index alone; nothing is read again."""
    index = read_index(dataset.folder)
    if index is None:
        state: State = "missing" if dataset.source() is None else "not decoded"
        told = f"{dataset.absent()}. {dataset.help}" if state == "missing" else dataset.absent()
        return Finding(dataset.name, state, f"{told}".rstrip())
    try:
        check_sizes(dataset.name, dataset.sizes, index.splits, len(index.left_out))
    except BenchError as error:
        return Finding(dataset.name, "wrong", str(error))
    return Finding(dataset.name, "ok", _told(dataset, index))


def verify(dataset: Real, *, pictures: bool = False, at: Path | None = None) -> Finding:
    """Whether a data set is what it should be, from its bytes.

    Decoded images are hashed again; counts per split, and how many test images are of other classes
    than the target, are compared with the published ones. Of one that is not decoded, the lists
    and labels are checked.

    Args:
        dataset: which, with its `image_size`.
        pictures: also read every picture in its files again and compare the fingerprint.
        at: the folder its files are in; None: where data sets are looked for.
    """
    index = read_index(dataset.folder)
    if index is None and dataset.source(at) is None:
        return status(dataset)
    try:
        if index is None:
            parts, where = read_parts(dataset, at)
            labels = {
                name: parts[part].labels[rows]
                for name, (part, rows) in split_rows(parts, dataset.split).items()
            }
            check_counts(dataset, {name: len(one) for name, one in labels.items()}, labels["test"])
            fix = f"`lfpm-bench data decode {dataset.name}`"
            return Finding(dataset.name, "not decoded", f"{where} has what it should: {fix}")
        check_sizes(dataset.name, dataset.sizes, index.splits, len(index.left_out))
        labels = {name: open_split(index, name)[1] for name in index.splits}
        check_arrays(index)
        if not index.left_out:
            sizes = {name: one.images for name, one in index.splits.items()}
            check_counts(dataset, sizes, labels["test"])
        check_pins(dataset, index)
        if pictures:
            check_pictures(dataset, index, at)
    except BenchError as error:
        return Finding(dataset.name, "wrong", str(error))
    return Finding(dataset.name, "ok", _told(dataset, index))


def check_counts(dataset: Real, sizes: Mapping[str, int], test: np.ndarray) -> None:
    """Refuse splits of other sizes, or test labels that no published ASR can be a share of.

    Args:
        dataset: with `sizes` and `denominator`.
        sizes: images per split.
        test: labels of the test split (n,) int64.
    """
    if dict(sizes) != dict(dataset.sizes):
        raise BenchError(
            f"{dataset.name} has {dict(sizes)} images, but should have {dict(dataset.sizes)}: the "
            "copy is incomplete or another edition; fetch it again"
        )
    wanted = dataset.denominator
    if wanted is None:
        return
    others = int((test != wanted["target"]).sum())
    if others != wanted["images"]:
        name = dataset.classnames[wanted["target"]]
        raise BenchError(
            f"{dataset.name} has {others} test images that are not of class {wanted['target']} "
            f"({name}), but published ASRs are shares of {wanted['images']}: its labels are in "
            "another order, or it is another edition"
        )


def check_arrays(index: Index) -> None:
    """Refuse decoded images whose bytes have changed since they were written."""
    for name, split in index.splits.items():
        if files_sha256(index.folder, name) != split.sha256:
            raise BenchError(
                f"{index.folder}/{name}.npy has a wrong hash: it was changed or is damaged; remove "
                f"{index.folder} and decode again"
            )


def check_pins(dataset: Real, index: Index) -> None:
    """Refuse content that differs from the content that was confirmed on a real copy."""
    for name, pin in (dataset.fingerprints or {}).items():
        if index.splits[name].fingerprint != pin:
            raise BenchError(
                f"{dataset.name}/{name} has the fingerprint {index.splits[name].fingerprint}, not "
                f"the confirmed {pin}: other pictures, labels or order; use the original files"
            )


def check_pictures(dataset: Real, index: Index, at: Path | None) -> None:
    """Refuse files whose pictures are not those that were decoded."""
    parts, where = read_parts(dataset, at)
    for name, (part, rows) in split_rows(parts, dataset.split).items():
        if digest_of(parts[part], rows.tolist()) != index.splits[name].fingerprint:
            raise BenchError(
                f"{where} makes another {name} than what was decoded: files have changed; remove "
                f"{index.folder} and decode again, or restore them"
            )


def digest_of(samples: Samples, rows: Sequence[int]) -> str:
    """The fingerprint of these rows, read again; pictures that cannot be read are left out."""

    def one(row: int) -> bytes | None:
        try:
            return picture_digest(rgb(samples.read(row)), int(samples.labels[row]))
        except Exception:  # as in decoding: the picture is named there
            return None

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return fingerprint([digest for digest in pool.map(one, rows) if digest is not None])


def _told(dataset: Real, index: Index) -> str:
    """What is there, in words."""
    sizes = ", ".join(f"{one.images} {name}" for name, one in index.splits.items())
    mark = hashlib.sha256("".join(s.fingerprint for s in index.splits.values()).encode())
    lost = f"; {len(index.left_out)} unreadable pictures left out" if index.left_out else ""
    known = "" if dataset.fingerprints else ", not confirmed on a real copy by anyone yet"
    return f"{sizes}, content {mark.hexdigest()[:12]}{known}{lost}; from {index.source}"
