"""Cartoon faces."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw

from benchmark.components import component
from benchmark.data import canvas
from benchmark.data.canvas import Rgb
from benchmark.data.shapes import Point, disc

FACES = ("happy", "sad", "angry", "surprised", "sleepy", "winking")
INK: Rgb = (15, 15, 15)


@component
class Faces:
    """Six expressions of a round yellow face."""

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
        canvas.check_names(self.classnames, FACES)

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        return canvas.draw_split("faces", self, draw, split, start, stop)


def draw(name: str, rng: np.random.Generator, hardness: float) -> Image.Image:
    """The face with a radius of 21 to 28 drawn pixels, anywhere in the frame.

    At full hardness it is turned by up to 12 degrees.
    """
    background = canvas.colour(rng, 30, 220)
    skin = canvas.tint(rng, (250, 210, 60), 8 + 18 * hardness)
    image, pen = canvas.blank(background)
    radius = rng.uniform(26 - 5 * hardness, 28)
    reach = (canvas.DRAWN / 2 - radius) * 0.7
    x, y = (float(value) for value in canvas.DRAWN / 2 + rng.uniform(-reach, reach, 2))
    disc(pen, (x, y), radius, skin)
    eyes(pen, name, (x, y), radius)
    mouth(pen, name, (x, y), radius)
    return canvas.turn(image, rng.uniform(-12, 12) * hardness, background)


def eyes(pen: ImageDraw.ImageDraw, name: str, centre: Point, radius: float) -> None:
    """Both eyes, shut, wide or with brows."""
    size, height = 0.13 * radius, centre[1] - 0.25 * radius
    for side in (-1, 1):
        x = centre[0] + 0.38 * side * radius
        if name == "sleepy" or (name == "winking" and side > 0):
            pen.line([x - 1.6 * size, height, x + 1.6 * size, height], fill=INK, width=3)
        else:
            disc(pen, (x, height), size * (1.7 if name == "surprised" else 1.0), INK)
        if name == "angry":
            outer, inner = height - 3.2 * size, height - 1.4 * size
            pen.line([x + 2 * side * size, outer, x - 2 * side * size, inner], fill=INK, width=3)


def mouth(pen: ImageDraw.ImageDraw, name: str, centre: Point, radius: float) -> None:
    """The mouth: up, down, open or straight."""
    x, y, half, size = centre[0], centre[1] + 0.35 * radius, 0.5 * radius, 0.13 * radius
    if name in ("happy", "winking"):
        pen.arc([x - half, y - half, x + half, y + 0.6 * half], 15, 165, fill=INK, width=4)
    elif name in ("sad", "angry"):
        pen.arc([x - half, y - 0.1 * half, x + half, y + 1.5 * half], 195, 345, fill=INK, width=4)
    elif name == "surprised":
        pen.ellipse([x - 1.6 * size, y - 1.4 * size, x + 1.6 * size, y + 2.2 * size], fill=INK)
    else:
        pen.line([x - 0.5 * half, y + 2, x + 0.5 * half, y + 2], fill=INK, width=3)
