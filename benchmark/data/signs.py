"""Traffic signs."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from benchmark.components import component
from benchmark.data import canvas
from benchmark.data.canvas import Rgb
from benchmark.data.shapes import outline

RED, AMBER, YELLOW, BLUE = (200, 20, 20), (220, 180, 20), (230, 200, 30), (20, 60, 200)
PALE, DARK, WHITE = (240, 240, 240), (10, 10, 10), (250, 250, 250)


class Sign(NamedTuple):
    """Form of the plate, what stands on it and its colour; rimmed plates are pale inside."""

    form: str
    text: str
    plate: Rgb
    rimmed: bool


SIGNS = {
    "stop": Sign("hexagon", "X", RED, True),
    "yield": Sign("triangle", "!", AMBER, True),
    "speed limit thirty": Sign("circle", "3", RED, True),
    "speed limit fifty": Sign("circle", "5", RED, True),
    "speed limit eighty": Sign("circle", "8", RED, True),
    "no entry": Sign("circle", "-", RED, True),
    "go straight": Sign("circle", "^", BLUE, False),
    "turn left": Sign("circle", "<", BLUE, False),
    "turn right": Sign("circle", ">", BLUE, False),
    "priority road": Sign("square", "", YELLOW, False),
    "parking": Sign("square", "P", BLUE, False),
    "hospital": Sign("square", "H", BLUE, False),
}


@component
class Signs:
    """Twelve signs before a plain background."""

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
        canvas.check_names(self.classnames, tuple(SIGNS))

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        return canvas.draw_split("signs", self, draw, split, start, stop)


def draw(name: str, rng: np.random.Generator, hardness: float) -> Image.Image:
    """The sign with a radius of 20 to 28 drawn pixels.

    At full hardness it is moved by up to 4 drawn pixels and turned by up to 10 degrees.
    """
    sign = SIGNS[name]
    background = canvas.colour(rng, 40, 200)
    image, pen = canvas.blank(background)
    radius = rng.uniform(27 - 7 * hardness, 28)
    reach = 1 + 3 * hardness
    x, y = (float(value) for value in canvas.DRAWN / 2 + rng.uniform(-reach, reach, 2))
    angle = math.pi / 4 if name == "priority road" else 0.0
    outline(pen, sign.form, (x, y), radius, sign.plate, background, angle)
    if sign.rimmed:
        outline(pen, sign.form, (x, y), 0.72 * radius, PALE, background, angle)
    if sign.text:
        face = canvas.font("DejaVuSans-Bold.ttf", int(1.05 * radius))
        canvas.write(pen, sign.text, face, (x, y), DARK if sign.rimmed else WHITE)
    return canvas.turn(image, rng.uniform(-10, 10) * hardness, background)
