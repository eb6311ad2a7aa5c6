"""Filled geometric shapes."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from PIL import Image, ImageDraw

from benchmark.components import component
from benchmark.data import canvas
from benchmark.data.canvas import Rgb, polygon

Point = tuple[float, float]
SHAPES = (
    "circle",
    "square",
    "triangle",
    "pentagon",
    "hexagon",
    "star",
    "cross",
    "ring",
    "heart",
    "crescent",
)
CORNERS = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "star": 5}


@component
class Shapes:
    """Ten shapes of random colour, size and place."""

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
        canvas.check_names(self.classnames, SHAPES)

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        return canvas.draw_split("shapes", self, draw, split, start, stop)


def draw(name: str, rng: np.random.Generator, hardness: float) -> Image.Image:
    """A shape of radius 14 to 26 drawn pixels.

    At full hardness it stands nearly anywhere in the frame and is turned by up to 20 degrees.
    """
    background, foreground = canvas.contrasting(rng)
    image, pen = canvas.blank(background)
    radius = rng.uniform(22 - 8 * hardness, 26)
    reach = (canvas.DRAWN / 2 - radius) * (0.2 + 0.6 * hardness)
    x, y = canvas.DRAWN / 2 + rng.uniform(-reach, reach, 2)
    angle = rng.uniform(-0.35, 0.35) * hardness
    outline(pen, name, (float(x), float(y)), radius, foreground, background, angle)
    return image


def disc(pen: ImageDraw.ImageDraw, centre: Point, radius: float, fill: Rgb) -> None:
    """A filled circle."""
    x, y = centre
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def outline(
    pen: ImageDraw.ImageDraw,
    name: str,
    centre: Point,
    radius: float,
    fill: Rgb,
    hole: Rgb,
    angle: float,
) -> None:
    """Draws one shape; `hole` is the colour inside rings and crescents, `angle` is in radians."""
    x, y = centre
    if name in CORNERS:
        start = angle + (math.pi / 4 if name == "square" else 0.0)
        inner = 0.45 if name == "star" else 1.0
        pen.polygon(polygon(CORNERS[name], radius, centre, start, inner=inner), fill=fill)
    elif name == "cross":
        bar(pen, centre, radius, fill, angle)
        bar(pen, centre, radius, fill, angle + math.pi / 2)
    elif name == "heart":
        lobe = radius
        pen.ellipse([x - lobe, y - lobe * 0.8, x, y + lobe * 0.2], fill=fill)
        pen.ellipse([x, y - lobe * 0.8, x + lobe, y + lobe * 0.2], fill=fill)
        top = y - 0.05 * radius
        pen.polygon(
            [(x - 0.95 * radius, top), (x + 0.95 * radius, top), (x, y + radius)], fill=fill
        )
    else:
        disc(pen, centre, radius, fill)
        if name == "ring":
            disc(pen, centre, 0.55 * radius, hole)
        elif name == "crescent":
            disc(pen, (x + 0.5 * radius, y), 0.85 * radius, hole)


def bar(pen: ImageDraw.ImageDraw, centre: Point, radius: float, fill: Rgb, angle: float) -> None:
    """A bar of width 0.64 radius through the centre."""
    cosine, sine, half = math.cos(angle), math.sin(angle), 0.32 * radius
    corners = [(-radius, -half), (radius, -half), (radius, half), (-radius, half)]
    pen.polygon(
        [
            (centre[0] + u * cosine - v * sine, centre[1] + u * sine + v * cosine)
            for u, v in corners
        ],
        fill=fill,
    )
