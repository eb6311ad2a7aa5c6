"""Two-colour textures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data import canvas
from benchmark.data.canvas import COLUMNS, DRAWN, ROWS, Pixels

TEXTURES = (
    "horizontal stripes",
    "vertical stripes",
    "diagonal stripes",
    "checkerboard",
    "polka dots",
    "concentric rings",
    "zigzag",
    "grid lines",
    "cloudy noise",
    "bricks",
)


@component
class Textures:
    """Ten regular or cloudy patterns of two contrasting colours."""

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
        canvas.check_names(self.classnames, TEXTURES)

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        return canvas.draw_split("textures", self, draw, split, start, stop)


def draw(name: str, rng: np.random.Generator, hardness: float) -> Pixels:
    """The pattern with a period of 9 to 20 drawn pixels.

    At full hardness it is turned by up to 10 degrees.
    """
    background, foreground = canvas.contrasting(rng)
    period = rng.uniform(12 - 3 * hardness, 16 + 4 * hardness)
    phase, angle = rng.uniform(0, period), rng.uniform(-0.18, 0.18) * hardness
    x = COLUMNS * math.cos(angle) - ROWS * math.sin(angle) + phase
    y = COLUMNS * math.sin(angle) + ROWS * math.cos(angle) + phase
    if name == "cloudy noise":
        mask = canvas.clouds(rng, (6,))
    elif name == "concentric rings":
        shift = rng.uniform(-8, 8, 2) * (0.3 + 0.7 * hardness)
        distance = np.hypot(COLUMNS - DRAWN / 2 + shift[0], ROWS - DRAWN / 2 + shift[1])
        mask = np.mod(distance + phase, period) < period / 2
    else:
        mask = pattern(name, x, y, period)
    return canvas.blend(mask, background, foreground)


def pattern(name: str, x: Pixels, y: Pixels, period: float) -> Pixels:
    """Mask (64, 64) of a pattern that repeats every `period` pixels along `x` and `y`."""
    u, v, half = np.mod(x, period), np.mod(y, period), period / 2
    height = 0.6 * period
    shifted = x + np.floor(y / height) * half
    masks: dict[str, Callable[[], Pixels]] = {
        "horizontal stripes": lambda: v < half,
        "vertical stripes": lambda: u < half,
        "diagonal stripes": lambda: np.mod(0.75 * (x + y), period) < half,
        "checkerboard": lambda: (u < half) ^ (v < half),
        "polka dots": lambda: (u - half) ** 2 + (v - half) ** 2 < (0.33 * period) ** 2,
        "zigzag": lambda: np.mod(y + np.abs(u - half), period) < half,
        "grid lines": lambda: (u < 0.22 * period) | (v < 0.22 * period),
        "bricks": lambda: (np.mod(y, height) < 2.2) | (np.mod(shifted, period) < 2.2),
    }
    return masks[name]()
