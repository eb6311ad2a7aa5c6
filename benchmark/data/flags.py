"""Flags of three upright bands."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data import canvas
from benchmark.data.canvas import COLUMNS, DRAWN, ROWS, Pixels

COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 140, 60),
    "blue": (30, 50, 170),
    "yellow": (240, 210, 40),
    "white": (240, 240, 240),
    "black": (20, 20, 20),
}
FLAGS = (
    "red white blue",
    "green white red",
    "black yellow red",
    "blue yellow blue",
    "white blue red",
    "green yellow red",
    "blue white green",
    "red black white",
    "yellow blue yellow",
    "white green white",
)


@component
class Flags:
    """Ten flags, named by their colours from left to right."""

    version: ClassVar[int] = 1
    classnames: canvas.Names
    templates: canvas.Templates
    sizes: canvas.Sizes
    seed: canvas.Seed
    easy: canvas.Hardness
    hard: canvas.Hardness
    camera: canvas.Camera

    def __post_init__(self) -> None:
        """Refuses classes without a drawing."""
        canvas.check_names(self.classnames, FLAGS)

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        return canvas.draw_split("flags", self, draw, split, start, stop)


def draw(name: str, rng: np.random.Generator, hardness: float) -> Pixels:
    """The flag waving and slanted by up to 17 degrees.

    Its colours are off by a standard deviation of 6 to 22 levels.
    """
    spread = 6 + 16 * hardness
    bands = np.array([canvas.tint(rng, COLOURS[word], spread) for word in name.split()], np.float32)
    slant = rng.uniform(-0.3, 0.3) * hardness
    wave = 4 * hardness * np.sin(ROWS / 10 + rng.uniform(0, 6))
    place = COLUMNS * math.cos(slant) + ROWS * math.sin(slant) + wave
    band = np.clip(np.floor(place / (DRAWN / 3)), 0, 2).astype(int)
    folds = 1 + 0.15 * np.sin(COLUMNS / 9 + rng.uniform(0, 6))
    return bands[band] * folds[..., None]
