"""Real handwritten digits: scikit-learn's copy of the UCI optdigits test set (no download)."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np
from PIL import Image

from benchmark.components import component
from benchmark.data import canvas

PLACED = (20, 26)
"""Width and height of a digit in the image; the file has them stretched to a square."""
HELD = ("test", "dev", "train")
"""Order in which the images of a class are dealt to the splits."""


@component
class Optdigits:
    """1,797 digits by 13 writers, 8 x 8 in 17 grey levels, enlarged to 20 x 26 in a 32 x 32 frame.

    Every split holds the same number of images of each class; the few left over are not used. The
    splits are not separated by writer, because the file does not say who wrote what.
    """

    version: ClassVar[int] = 1
    classnames: canvas.Names
    templates: canvas.Templates
    sizes: canvas.Sizes
    seed: canvas.Seed

    def __post_init__(self) -> None:
        """Refuses sizes that are not balanced or not there."""
        if len(self.classnames) != 10:
            raise ValueError(f"ten digits need ten class names, not {len(self.classnames)}")
        if unknown := set(self.sizes) - set(HELD):
            raise ValueError(f"no split {sorted(unknown)[0]!r} in real data")
        if any(size % 10 for size in self.sizes.values()) or sum(self.sizes.values()) > 1740:
            raise ValueError("sizes must be multiples of 10 and sum to at most 1,740")

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,32,32) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        canvas.check_range(self.sizes, split, start, stop)
        images, labels = _digits()
        chosen = self._indices(split)[start:stop]
        return np.repeat(images[chosen][:, None], 3, axis=1), labels[chosen]

    def _indices(self, split: str) -> np.ndarray:
        """Rows of scikit-learn's table that make up a split, (n,), shuffled."""
        _, labels = _digits()
        rng = np.random.default_rng((self.seed, 0))
        first = sum(self.sizes.get(name, 0) for name in HELD[: HELD.index(split)]) // 10
        last = first + self.sizes[split] // 10
        rows = [rng.permutation(np.flatnonzero(labels == digit))[first:last] for digit in range(10)]
        order = np.random.default_rng((self.seed, 1, HELD.index(split)))
        # One image of every class per block, so that every prefix is balanced.
        return order.permuted(np.stack(rows, axis=1), axis=1).reshape(-1)


@functools.cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    """All images (1797,32,32) uint8, white on black, and labels (1797,) int64."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    small = np.clip(np.asarray(pixels).reshape(-1, 8, 8) * 16, 0, 255).astype(np.uint8)
    large = [Image.fromarray(image).resize(PLACED, Image.Resampling.BICUBIC) for image in small]
    margin = ((0, 0), *(((canvas.SIDE - side) // 2,) * 2 for side in (PLACED[1], PLACED[0])))
    images = np.pad(np.stack([np.asarray(image) for image in large]), margin)
    return images, np.asarray(target, np.int64)
