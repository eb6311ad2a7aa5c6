"""Random crops of a batch of training images, resized to the size they had."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

RATIO = 4 / 3
"""Aspect ratios of crops are log-uniform between its inverse and it."""


def random_crops(images: Tensor, least: float, rng: Generator) -> Tensor:
    """One crop per image (torchvision's RandomResizedCrop with bicubic interpolation).

    Deviation: boxes have real coordinates instead of whole pixels, and are drawn once; a side that
    would be longer than the image's is cut to it.

    Args:
        images: (B,3,H,W) in [0,1].
        least: smallest share of the area that a crop keeps; shares are uniform in [least, 1].
        rng: draws four numbers per image, on its own device.

    Returns:
        (B,3,H,W) in [0,1], not differentiable in the boxes.
    """
    from torch.nn.functional import affine_grid, grid_sample

    grid = affine_grid(boxes(len(images), least, rng).to(images), list(images.shape), False)
    moved = grid_sample(images, grid, "bicubic", "reflection", align_corners=False)
    return moved.clamp(0, 1)


def boxes(count: int, least: float, rng: Generator) -> Tensor:
    """Maps (count,2,3) from [-1,1]^2 onto the crop, in coordinates in which the image is that too.

    The image is taken for a square; its aspect ratio is that of the crop for any other.
    """
    import torch

    share, ratio, across, down = torch.rand(4, count, generator=rng, dtype=torch.float64)
    area, aspect = least + (1 - least) * share, RATIO ** (2 * ratio - 1)
    wide, tall = (area * aspect).sqrt().clamp_max(1), (area / aspect).sqrt().clamp_max(1)
    maps = torch.zeros(count, 2, 3, dtype=torch.float64)
    maps[:, 0, 0], maps[:, 1, 1] = wide, tall
    maps[:, 0, 2], maps[:, 1, 2] = (1 - wide) * (2 * across - 1), (1 - tall) * (2 * down - 1)
    return maps
