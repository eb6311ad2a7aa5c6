"""Land use seen from above."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from benchmark.components import component
from benchmark.data import canvas
from benchmark.data.canvas import COLUMNS, DRAWN, ROWS, Pixels, Rgb

GRASS = ((40, 90, 40), (100, 150, 70))
PALETTES: dict[str, tuple[Rgb, ...]] = {
    "forest": ((10, 50, 20), (40, 100, 40)),
    "river": ((40, 70, 140),),
    "highway": ((110, 110, 110), (240, 240, 220)),
    "lake": ((30, 60, 130),),
    "farmland": ((120, 150, 60), (180, 160, 80), (90, 120, 50), (150, 110, 70)),
    "residential area": ((170, 90, 80), (140, 140, 130)),
    "desert": ((190, 150, 90), (230, 200, 140)),
    "snow field": ((200, 210, 220), (245, 245, 250)),
}


@component
class Landuse:
    """Eight kinds of ground cover, in any direction."""

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
        canvas.check_names(self.classnames, tuple(PALETTES))

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        return canvas.draw_split("landuse", self, draw, split, start, stop)


def draw(name: str, rng: np.random.Generator, hardness: float) -> Pixels:
    """The ground cover, its colours off by a standard deviation of 8 to 25."""
    spread = 8 + 17 * hardness
    tones = [canvas.tint(rng, tone, spread) for tone in PALETTES[name]]
    grass = [canvas.tint(rng, tone, spread) for tone in GRASS]
    relief = canvas.clouds(rng)
    direction = rng.uniform(0, math.pi)
    x, y = COLUMNS - DRAWN / 2, ROWS - DRAWN / 2
    along = x * math.cos(direction) + y * math.sin(direction)
    across = y * math.cos(direction) - x * math.sin(direction)
    if name in ("forest", "snow field", "desert"):
        ground = canvas.blend(relief, *tones)
        if name == "forest":
            return ground + rng.normal(0, 14, (DRAWN, DRAWN, 1))
        return ground + (8 * np.sin(along / 4))[..., None] if name == "desert" else ground
    if name == "farmland":
        strip, row = rng.uniform(9, 14), rng.uniform(14, 22)
        field = (np.floor(along / strip) + 3 * np.floor(across / row)).astype(int) % len(tones)
        return np.array(tones, np.float32)[field] + 20 * (relief[..., None] - 0.5)
    if name == "residential area":
        block = rng.uniform(9, 13)
        roofs = (np.mod(along, block) < 0.6 * block) & (np.mod(across, block) < 0.6 * block)
        return canvas.blend(roofs, tones[1], tones[0])
    return crossed(name, rng, canvas.blend(relief, *grass), tones, relief, along, across)


def crossed(
    name: str,
    rng: np.random.Generator,
    ground: Pixels,
    tones: list[Rgb],
    relief: Pixels,
    along: Pixels,
    across: Pixels,
) -> Pixels:
    """Grassland with a lake, a river or a highway.

    `along` and `across` are coordinates from the centre, in drawn pixels.
    """
    if name == "lake":
        edge = np.hypot(along * rng.uniform(0.8, 1.2), across) + 12 * (relief - 0.5)
        return np.where((edge < rng.uniform(14, 24))[..., None], tones[0], ground)
    width = rng.uniform(4, 7)
    if name == "river":
        bend = along + 6 * np.sin(across / 9 + rng.uniform(0, 6))
        return np.where((np.abs(bend) < width)[..., None], tones[0], ground)
    road = np.where((np.abs(along) < width)[..., None], tones[0], ground)
    return np.where((np.abs(along) < 0.8)[..., None], tones[1], road)
