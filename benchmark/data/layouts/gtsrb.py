"""German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from benchmark.components import component
from benchmark.data.samples import Samples, class_folders, first, of_files, require
from benchmark.data.words import Words
from benchmark.errors import BenchError

LABELS = "GT-final_test.csv"


@component
class Gtsrb:
    """`GTSRB/Training/00000/*.ppm`, `GTSRB/Final_Test/Images/*.ppm` and `GT-final_test.csv`.

    The train part is the one of 26,640 images (`GTSRB-Training_fixed.zip`) that torchvision and the
    papers on merging use, not the 39,209 of `GTSRB_Final_Training_Images.zip`.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder in which `GTSRB` is."""
        return first(base, ["gtsrb"], ["GTSRB"])

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train, sorted by class and name, and test in the order of the csv."""
        root = found / "GTSRB"
        if not (root / "Training").is_dir() and (root / "Final_Training").is_dir():
            raise BenchError(
                f"{root} has the train part of 39,209 images (Final_Training); the papers use the "
                "26,640 of GTSRB-Training_fixed.zip: `lfpm-bench data fetch gtsrb`"
            )
        test, labels = [], []
        places = [found / LABELS, root / LABELS, root / "Final_Test" / LABELS]
        listed = next((path for path in places if path.exists()), places[0])
        with require(listed).open(newline="") as file:
            for row in csv.DictReader(file, delimiter=";", skipinitialspace=True):
                test.append(root / "Final_Test" / "Images" / row["Filename"])
                labels.append(int(row["ClassId"]))
        return {
            "train": class_folders(require(root / "Training"), words.folders),
            "test": of_files(test, labels),
        }
