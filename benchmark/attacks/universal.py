"""A universal patch: one set of pixels that does something to all images of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.attacks.triggers import Patch
from benchmark.errors import BenchError
from benchmark.training import unit_range

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Predict = Callable[[Tensor], Tensor]
    """Images (B,3,H,W), uint8 or float in [0,1], to logits (B,C)."""
    Score = Callable[[Tensor], Tensor]
    """Triggered images (B,3,H,W) in [0,1] to a scalar that the search raises."""

CHUNK = 500
PROBES = 10
"""How often, spread over the steps, the held-out images are looked at."""


@dataclass(frozen=True)
class Search:
    """How a patch is searched for.

    Attributes:
        steps: number of steps.
        lr: learning rate of Adam on the patch's logits.
        batch: images per step.
        heldout: images that only measure progress; at most half of all.
    """

    steps: int
    lr: float
    batch: int
    heldout: int


def universal_patch(
    predict: Predict,
    images: Tensor,
    target: int,
    box: tuple[int, int, int],
    search: Search,
    rng: Generator,
) -> tuple[Patch, list[tuple[int, float]]]:
    """Maximise the mean log-probability of `target` over patched images.

    Batches take the place of BadMerging's (Zhang et al., CCS 2024) sequential loop over single
    images. As there, images that are predicted as the target already do not take part; unlike
    there, this is decided once, on the clean images.

    Args:
        predict: the frozen model.
        images: (N,3,H,W) uint8 or float in [0,1]; training images only.
        target: the class.
        box: (size, row, col) of the patch.
        search: the optimiser's settings.
        rng: draws the start and the batches.

    Returns:
        The patch and the (step, mean log p_target on held-out images) of the search.
    """
    images = images[rows_elsewhere(predict, images, target)]

    def log_p(triggered: Tensor) -> Tensor:
        return predict(triggered).log_softmax(-1)[:, target].mean()

    return searched(log_p, images, box, search, rng)


def searched(
    score: Score,
    images: Tensor,
    box: tuple[int, int, int],
    search: Search,
    rng: Generator,
) -> tuple[Patch, list[tuple[int, float]]]:
    """Raise a score of patched images with Adam.

    Pixels are a sigmoid of what Adam moves, so they are valid at every step, and the result is
    rounded to multiples of 1/255, so it is a picture.

    Args:
        score: differentiable in the images.
        images: (N,3,H,W) uint8 or float in [0,1]; training images only.
        box: (size, row, col) of the patch.
        search: the optimiser's settings.
        rng: draws the start and the batches.

    Returns:
        The patch and the (step, score of held-out images) of the search.
    """
    import torch

    held = images[len(images) - min(search.heldout, len(images) // 2) :]
    images = images[: len(images) - len(held)]
    size, row, col = box
    # logit(u) with u uniform: the search starts at pixels uniform in [0,1], as BadMerging's does.
    start = torch.rand(3, size, size, generator=rng).clamp(1e-3, 1 - 1e-3).logit()
    hidden = start.to(images.device).requires_grad_()
    optimiser = torch.optim.Adam([hidden], lr=search.lr)
    probes = {round(part * search.steps / PROBES) for part in range(PROBES + 1)}
    history: list[tuple[int, float]] = []
    for step in range(search.steps + 1):
        if step in probes:
            with torch.no_grad():
                patch = Patch(hidden.sigmoid(), row, col)
                history.append((step, float(score(patch(unit_range(held))))))
        if step < search.steps:
            rows = torch.randint(len(images), (search.batch,), generator=rng)
            loss = -score(Patch(hidden.sigmoid(), row, col)(unit_range(images[rows])))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    pixels = hidden.detach().sigmoid().mul(255).round().div(255).cpu()
    return Patch(pixels, row, col), history


def rows_elsewhere(predict: Predict, images: Tensor, target: int) -> Tensor:
    """Rows of images that are not predicted as the target."""
    import torch

    with torch.no_grad():
        found = torch.cat([predict(chunk).argmax(-1) for chunk in images.split(CHUNK)])
    rows = (found != target).nonzero().flatten().to(images.device)
    if len(rows) < 2:
        raise BenchError(
            f"{len(rows)} of {len(images)} images are not predicted as class {target} already, too "
            "few to search a trigger; choose another attack.target"
        )
    return rows
