"""ImageNet (ILSVRC 2012; Russakovsky et al. 2015) as its archives unpack."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.layouts.matlab import read_mat
from benchmark.data.samples import IMAGES, Samples, class_folders, first, lines, of_files, require
from benchmark.data.words import Words

DEVKIT = "ILSVRC2012_devkit_t12/data"
SOLUTION = "LOC_val_solution.csv"
KAGGLE = "ILSVRC/Data/CLS-LOC"


@component
class Imagenet:
    """`train/WNID/*.JPEG` and 50,000 validation images, which are the test part.

    They may be in `val/WNID/`, or flat in `val/` beside the devkit
    (`ILSVRC2012_devkit_t12/data/meta.mat` and `..._validation_ground_truth.txt`) or Kaggle's
    `LOC_val_solution.csv`. Classes that the data set's words do not name are left alone, so that
    ImageNet100 can be read from a copy of ImageNet.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder in which `train` and `val` are."""
        folders = ["imagenet", "ILSVRC2012", KAGGLE, f"imagenet/{KAGGLE}"]
        found = first(base, folders, ["train"])
        return found if found and (found / "val").is_dir() else None

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        train = class_folders(require(found / "train"), words.folders)
        if any(path.is_dir() for path in (found / "val").iterdir()):
            return {"train": train, "test": class_folders(found / "val", words.folders)}
        known = validation_classes(found)
        label = {wnid: index for index, wnid in enumerate(words.folders)}
        paths = sorted(p for p in (found / "val").iterdir() if p.suffix.lower() in IMAGES)
        kept = [(path, label[known[path.stem]]) for path in paths if known[path.stem] in label]
        return {"train": train, "test": of_files([p for p, _ in kept], [c for _, c in kept])}


def validation_classes(found: Path) -> dict[str, str]:
    """Name of a validation image without its suffix -> WordNet id."""
    above = [found, *list(found.parents)[:3]]
    solution = next((one / SOLUTION for one in above if (one / SOLUTION).exists()), None)
    if solution is not None:
        with solution.open(newline="") as file:
            rows = csv.DictReader(file)
            return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    devkit = found / DEVKIT
    synsets = np.atleast_1d(read_mat(require(devkit / "meta.mat"), "synsets")["synsets"])
    # Leaves of the hierarchy are the classes; their numbers are MATLAB's.
    wnids = {
        int(one["ILSVRC2012_ID"]): str(one["WNID"]) for one in synsets if not one["num_children"]
    }
    truth = lines(devkit / "ILSVRC2012_validation_ground_truth.txt")
    return {f"ILSVRC2012_val_{number:08d}": wnids[int(one)] for number, one in enumerate(truth, 1)}
