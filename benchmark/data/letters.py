"""Printed capital letters."""

from __future__ import annotations

import string
from typing import ClassVar

import numpy as np
from PIL import Image

from benchmark.components import component
from benchmark.data import canvas

LETTERS = tuple(string.ascii_uppercase)


@component
class Letters:
    """Capital letters in seven faces, any two contrasting colours."""

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
        canvas.check_names(self.classnames, LETTERS)

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        return canvas.draw_split("letters", self, draw, split, start, stop)


def draw(name: str, rng: np.random.Generator, hardness: float) -> Image.Image:
    """The letter with this name."""
    return canvas.glyph(name, rng, hardness)
