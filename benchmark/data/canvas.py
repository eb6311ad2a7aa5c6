"""Drawing primitives of the embedded suite: seeding, colours, fonts and the last camera step.

Images are drawn at 64 x 64 and shrunk to 32 x 32. `hardness` in [0, 1] scales every nuisance
(position, rotation, size, lighting, noise); pre-training sees low values ("easy style"), the tasks
see high ones ("hard style").
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field

from benchmark.components import component

SIDE = 32
"""Side of a finished image in pixels."""
DRAWN = 64
"""Side of the drawing before it is shrunk, in pixels."""
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSansMono-Oblique.ttf",
    "DejaVuSerif-Italic.ttf",
)
"""Files of matplotlib's package data, so that no image depends on the fonts of a system."""

SPLITS = ("pretrain", "train", "dev", "test")
ROWS, COLUMNS = np.mgrid[0:DRAWN, 0:DRAWN].astype(np.float32)
"""Pixel coordinates y and x of the drawing, each (64, 64)."""

Rgb = tuple[int, int, int]
Pixels = np.ndarray
Names = Annotated[tuple[str, ...], Field(min_length=2)]
Templates = Annotated[tuple[Annotated[str, Field(pattern=r"\{\}")], ...], Field(min_length=1)]
Sizes = dict[str, Annotated[int, Field(ge=1, le=1_000_000)]]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Hardness = tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]]
"""Interval that an image's hardness is drawn from."""


@component
class Camera:
    """The fixed interference pattern of a task's camera, a sine grating laid over every image.

    It is what makes the tasks differ from pre-training: each has its own, so that the repair that
    one expert learns hardly touches the others. Pre-training images have none.
    """

    amplitude: Annotated[float, Field(ge=0, le=127)]
    """Grey levels."""
    period: Annotated[float, Field(ge=2, le=64)]
    """Pixels of the finished image."""
    angle: Annotated[float, Field(ge=0, lt=180)]
    """Direction across the bars in degrees, counted from the vertical."""
    phase: Annotated[float, Field(ge=0, lt=360)]
    """Degrees at the upper left corner."""

    def pattern(self) -> Pixels:
        """What is added to every channel, (32,32) float32, in grey levels."""
        rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
        angle = math.radians(self.angle)
        distance = rows * math.cos(angle) + columns * math.sin(angle)
        wave = np.sin(2 * math.pi * distance / self.period + math.radians(self.phase))
        return (self.amplitude * wave).astype(np.float32)


class Drawn(Protocol):
    """What `draw_split` reads of a drawn data set."""

    @property
    def classnames(self) -> tuple[str, ...]:
        """Names by label."""
        ...

    @property
    def sizes(self) -> dict[str, int]:
        """Images per split."""
        ...

    @property
    def seed(self) -> int:
        """Seed of every image."""
        ...

    @property
    def easy(self) -> tuple[float, float]:
        """Hardness in the split "pretrain"."""
        ...

    @property
    def hard(self) -> tuple[float, float]:
        """Hardness in the other splits."""
        ...

    @property
    def camera(self) -> Camera:
        """Pattern over the images of the other splits."""
        ...


Draw = Callable[[str, np.random.Generator, float], "Image.Image | Pixels"]
"""(class name, generator, hardness) -> a 64 x 64 RGB drawing."""


def check_range(sizes: dict[str, int], split: str, start: int, stop: int) -> None:
    """Refuses a split that the data set lacks and a range outside it."""
    if split not in sizes:
        raise ValueError(f"no split {split!r}; there are {', '.join(sizes)}")
    if not 0 <= start <= stop <= sizes[split]:
        raise ValueError(f"images {start} to {stop} are outside {split}, which has {sizes[split]}")


def check_names(names: Sequence[str], known: Sequence[str]) -> None:
    """Refuses class names without a drawing and repeated ones."""
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no drawing for class {unknown[0]!r}; there are {', '.join(known)}")
    if len(set(names)) != len(names):
        raise ValueError("a class name occurs twice")


def draw_split(
    task: str, dataset: Drawn, draw: Draw, split: str, start: int, stop: int
) -> tuple[Pixels, np.ndarray]:
    """Draws images `start` to `stop` of a split.

    Each has a generator of its own, so that chunks may be drawn in any order. Labels come in
    shuffled blocks that hold every class once: every prefix is balanced to within one per class.

    Returns:
        Images (n,3,32,32) uint8 and labels (n,) int64.
    """
    check_range(dataset.sizes, split, start, stop)
    low, high = dataset.easy if split == "pretrain" else dataset.hard
    pattern = 0.0 if split == "pretrain" else dataset.camera.pattern()
    stream = (dataset.seed, zlib.crc32(task.encode()), SPLITS.index(split))
    classes = len(dataset.classnames)
    images = np.empty((stop - start, 3, SIDE, SIDE), np.uint8)
    labels = np.empty(stop - start, np.int64)
    for row, index in enumerate(range(start, stop)):
        block, place = divmod(index, classes)
        order = np.random.default_rng((*stream, 0, block)).permutation(classes)
        label = int(order[place])
        rng = np.random.default_rng((*stream, 1, index))
        hardness = rng.uniform(low, high)
        image = draw(dataset.classnames[label], rng, hardness)
        images[row] = photograph(image, rng, hardness, pattern)
        labels[row] = label
    return images, labels


def photograph(
    image: Image.Image | Pixels, rng: np.random.Generator, hardness: float, pattern: Pixels | float
) -> Pixels:
    """Shrinks a drawing to 32 x 32 and adds lighting, noise and the camera's pattern.

    Returns:
        (3,32,32) uint8.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32)
    gain = rng.uniform(1 - 0.4 * hardness, 1 + 0.1 * hardness)
    offset = rng.uniform(-20, 20) * hardness
    noise = rng.standard_normal(pixels.shape, np.float32) * (rng.uniform(0, 18) * hardness)
    return np.clip((pixels * gain + offset + noise).transpose(2, 0, 1) + pattern, 0, 255).astype(
        np.uint8
    )


def colour(rng: np.random.Generator, low: int = 0, high: int = 255) -> Rgb:
    """A colour with every channel in [low, high]."""
    red, green, blue = (int(value) for value in rng.integers(low, high + 1, 3))
    return red, green, blue


def tint(rng: np.random.Generator, centre: Rgb, spread: float) -> Rgb:
    """A colour near `centre`, with a standard deviation of `spread` per channel."""
    red, green, blue = (int(value) for value in np.clip(rng.normal(0, spread, 3) + centre, 0, 255))
    return red, green, blue


def contrasting(rng: np.random.Generator) -> tuple[Rgb, Rgb]:
    """Background and foreground at least 220 apart, summed over the channels."""
    while True:
        background, foreground = colour(rng), colour(rng)
        if sum(abs(a - b) for a, b in zip(background, foreground, strict=True)) > 220:
            return background, foreground


@functools.cache
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A DejaVu face at `size` pixels."""
    # Late: matplotlib is needed for the place of its font files only.
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def blank(background: Rgb) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """An empty drawing and the pen for it."""
    image = Image.new("RGB", (DRAWN, DRAWN), background)
    return image, ImageDraw.Draw(image)


def turn(image: Image.Image, degrees: float, background: Rgb) -> Image.Image:
    """The drawing turned about its centre, with its corners filled."""
    return image.rotate(degrees, fillcolor=background, resample=Image.Resampling.BILINEAR)


def write(
    pen: ImageDraw.ImageDraw,
    text: str,
    face: ImageFont.FreeTypeFont,
    centre: tuple[float, float],
    ink: Rgb,
) -> None:
    """Writes `text` with its bounding box centred at `centre`."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=face)
    x, y = centre[0] - (left + right) / 2, centre[1] - (top + bottom) / 2
    pen.text((x, y), text, fill=ink, font=face)


def glyph(text: str, rng: np.random.Generator, hardness: float) -> Image.Image:
    """A character in one of seven faces.

    At full hardness it is moved by up to 4 drawn pixels and turned by up to 14 degrees.
    """
    background, foreground = contrasting(rng)
    image, pen = blank(background)
    face = font(FONTS[rng.integers(len(FONTS))], int(rng.integers(46 - int(6 * hardness), 56)))
    reach = 1 + 3 * hardness
    centre = DRAWN / 2 + rng.uniform(-reach, reach, 2)
    write(pen, text, face, (float(centre[0]), float(centre[1])), foreground)
    return turn(image, rng.uniform(-14, 14) * hardness, background)


def polygon(
    corners: int, radius: float, centre: tuple[float, float], angle: float, *, inner: float = 1.0
) -> list[tuple[float, float]]:
    """Corners of a regular polygon, the first one up; `inner` < 1 gives a star of that ratio."""
    points = corners if inner == 1.0 else 2 * corners
    result = []
    for index in range(points):
        reach = radius * (inner if index % 2 else 1.0)
        phase = angle + 2 * math.pi * index / points - math.pi / 2
        result.append((centre[0] + reach * math.cos(phase), centre[1] + reach * math.sin(phase)))
    return result


def clouds(rng: np.random.Generator, octaves: Sequence[int] = (4, 8, 16)) -> Pixels:
    """Smooth noise of several scales in [0, 1], (64, 64)."""
    weights = [0.5**index for index in range(len(octaves))]
    total = np.zeros((DRAWN, DRAWN), np.float32)
    for cells, weight in zip(octaves, weights, strict=True):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), np.uint8))
        fine = coarse.resize((DRAWN, DRAWN), Image.Resampling.BICUBIC)
        total += weight * np.asarray(fine, np.float32) / 255
    return total / sum(weights)


def blend(mask: Pixels, background: Sequence[float], foreground: Sequence[float]) -> Pixels:
    """Mixes two colours by a mask (64, 64) in [0, 1]; returns (64, 64, 3) float."""
    share = np.asarray(mask, np.float32)[..., None]
    return (
        np.asarray(background, np.float32) * (1 - share)
        + np.asarray(foreground, np.float32) * share
    )
