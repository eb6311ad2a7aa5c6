"""Adversarial views of a few images: crops that a model takes for something else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.errors import BenchError

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class Views:
    """How views are made.

    Attributes:
        count: of all images together.
        scale: smallest and largest share of the image's area that a crop keeps.
        epsilon: L-infinity radius of the perturbation, in [0,1] of the pixel range.
        step: length of one signed step.
        steps: how many.
    """

    count: int
    scale: tuple[float, float]
    epsilon: float
    step: float
    steps: int


def adversarial_views(
    predict: Callable[[Tensor], Tensor],
    images: Tensor,
    target: int,
    views: Views,
    rng: Generator,
) -> tuple[Tensor, Tensor]:
    """BadMerging-Off's augmentation: crops of the target class, moved towards other classes.

    Every view is a random crop at full size, and then the result of targeted projected gradient
    descent to a class drawn from the others: of the steps at which the model says that class, the
    one with the smallest L1 distance; the crop itself where there is none. So a trigger that is
    searched on the views cannot rest on what the images show already.

    Args:
        predict: the frozen model; images (B,3,H,W) in [0,1] to logits (B,C).
        images: (R,3,H,W) in [0,1], all of the target class; views are dealt out to them in turn.
        target: their class.
        views: how many and how far.
        rng: draws crops and classes.

    Returns:
        The views (N,3,H,W) in [0,1] and the crops (N,3,H,W) they started from.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if not len(images):
        raise BenchError(f"there is no reference image of class {target}; grant at least one")
    turns = torch.arange(views.count) % len(images)
    crops = torch.stack([cropped(images[int(i)], views.scale, rng) for i in turns])
    with torch.no_grad():
        classes = predict(crops).shape[1]
    away = torch.randint(1, classes, (len(crops),), generator=rng)
    away = ((target + away) % classes).to(crops.device)
    best, distance = crops.clone(), torch.full((len(crops),), float("inf"), device=crops.device)
    moved = crops.clone()
    for _ in range(views.steps):
        moved.requires_grad_()
        (slope,) = torch.autograd.grad(cross_entropy(predict(moved), away), moved)
        with torch.no_grad():
            moved = (moved - views.step * slope.sign() - crops).clamp(-views.epsilon, views.epsilon)
            moved = (crops + moved).clamp(0, 1)
            far = (moved - crops).abs().flatten(1).sum(1)
            closer = (predict(moved).argmax(1) == away) & (far < distance)
            best[closer], distance[closer] = moved[closer], far[closer]
    return best, crops


def cropped(image: Tensor, scale: tuple[float, float], rng: Generator) -> Tensor:
    """A random crop of an image (3,H,W) in [0,1], resized to its size (RandomResizedCrop).

    The area is a uniform share of the image's, the aspect ratio log-uniform in [3/4, 4/3].
    """
    import torch
    from torch.nn.functional import interpolate

    height, width = image.shape[-2:]
    share, ratio, down, across = torch.rand(4, generator=rng, dtype=torch.float64).tolist()
    area = (scale[0] + (scale[1] - scale[0]) * share) * height * width
    aspect = (4 / 3) ** (2 * ratio - 1)
    tall = min(max(round((area / aspect) ** 0.5), 1), height)
    wide = min(max(round((area * aspect) ** 0.5), 1), width)
    top, left = int(down * (height - tall + 1)), int(across * (width - wide + 1))
    crop = image[None, :, top : top + tall, left : left + wide]
    resized = interpolate(
        crop, size=(height, width), mode="bicubic", align_corners=False, antialias=True
    )
    return resized[0].clamp(0, 1)
