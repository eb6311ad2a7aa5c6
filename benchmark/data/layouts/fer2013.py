"""Facial Expression Recognition 2013 (Goodfellow et al. 2013): pixels in a csv file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data.samples import Samples, first, of_arrays
from benchmark.data.words import Words
from benchmark.errors import BenchError

FILES = ("fer2013.csv", "icml_face_data.csv")
PARTS = {"Training": "train", "PublicTest": "test", "PrivateTest": "test"}
SIDE = 48


@component
class Fer2013:
    """`fer2013.csv` or `icml_face_data.csv`: emotion, pixels and usage; 48 x 48, greyscale.

    Test is the public and the private test part, in the order of the file. The competition's own
    `test.csv` has no labels and cannot be used.
    """

    version: ClassVar[int] = 1

    def find(self, base: Path) -> Path | None:
        """The folder of the csv."""
        return first(base, ["fer2013"], FILES)

    def parts(self, found: Path, words: Words) -> Mapping[str, Samples]:
        """Train and test."""
        path = next(found / name for name in FILES if (found / name).exists())
        pixels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
        labels: dict[str, list[int]] = {"train": [], "test": []}
        with path.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                body = {str(key).strip(): value for key, value in row.items()}
                try:
                    part = PARTS[body["Usage"].strip()]
                    values = np.array(body["pixels"].split(), np.uint8).reshape(SIDE, SIDE)
                    labels[part].append(int(body["emotion"]))
                except (KeyError, ValueError, AttributeError) as error:
                    raise BenchError(f"{path}, line {number} is broken; fetch it again") from error
                pixels[part].append(values)
        return {
            part: of_arrays(np.array(each, np.uint8), np.array(labels[part]), f"{path} ({part})")
            for part, each in pixels.items()
        }
