"""Which image of a published data set is in train, dev or test, by rules anyone can repeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from benchmark.data.samples import Samples
from benchmark.errors import BenchError

Rule = Literal["official", "per_class"]
SPLITS = ("train", "dev", "test")
DEV_SHARE = 10  # one in so many images of the official train part goes to dev, ...
DEV_MOST = 5000  # ... but no more than this
SEED = 0
Rows = dict[str, tuple[str, np.ndarray]]
"""Split -> (official part it comes from, rows of that part (n,) int64, in the split's order)."""


def split_rows(parts: Mapping[str, Samples], rule: Rule) -> Rows:
    """Rows of every split.

    "official": test is the official test part. The official train part is cut as BadMerging and
    Task Arithmetic do (`random_split` with seed 0): of a permutation the first images are train,
    the last min(10 %, 5000) dev. A part named "dev" is taken as it is.

    "per_class", for a data set without official parts: of each class's images, sorted by path and
    permuted with a generator of (0, label), 80 % are train, 10 % dev, 10 % test. BadMerging's
    script for EuroSAT does the same without a seed and in the order of the file system, so nobody
    else has its split.

    The order within test is a permutation with seed 0: official lists are often sorted by class,
    and a suite may measure the first images only.

    Raises:
        BenchError: a part is missing.
    """
    wanted = ("all",) if rule == "per_class" else ("train", "test")
    if missing := [part for part in wanted if part not in parts]:
        raise BenchError(
            f"the copy has no part '{missing[0]}', only {', '.join(parts)}; "
            "fetch it again or name its folders train and test"
        )
    if rule == "per_class":
        return {split: ("all", rows) for split, rows in per_class(parts["all"].labels).items()}
    test = ("test", np.random.default_rng(SEED).permutation(len(parts["test"])))
    if "dev" in parts:
        kept = {part: (part, np.arange(len(parts[part]))) for part in ("train", "dev")}
        return {**kept, "test": test}
    train, dev = cut(len(parts["train"]))
    return {"train": ("train", train), "dev": ("train", dev), "test": test}


def cut(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of dev among `count` images, as `torch.utils.data.random_split` gives."""
    import torch

    order = torch.randperm(count, generator=torch.Generator().manual_seed(SEED)).numpy()
    held = min(count // DEV_SHARE, DEV_MOST)
    return order[: count - held], order[count - held :]


def per_class(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each split, mixed: 80, 10 and 10 % of each class; test takes what rounding leaves."""
    shares: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
    for label in range(int(labels.max()) + 1):
        rows = np.random.default_rng((SEED, label)).permutation(np.flatnonzero(labels == label))
        train, dev = len(rows) * 8 // 10, len(rows) // 10
        for split, share in zip(SPLITS, np.split(rows, [train, train + dev]), strict=True):
            shares[split].append(share)
    mixed = np.random.default_rng(SEED)
    return {split: mixed.permutation(np.concatenate(each)) for split, each in shares.items()}
