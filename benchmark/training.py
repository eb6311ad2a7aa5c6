"""Fine-tuning of an image tower against a frozen zero-shot head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.models.heads import logits

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmark.models.encoder import Encoder

    ExtraLoss = Callable[[Mapping[str, Tensor], Tensor, Tensor, int], Tensor | None]
    """(weights, images (B,3,S,S) in [0,1], labels (B,), step) -> a scalar to add, or None."""


@component
class Recipe:
    """AdamW with a linear warm-up and a cosine decay to zero."""

    version: ClassVar[int] = 1
    epochs: Annotated[int, Field(ge=1, le=1000)]
    min_steps: Annotated[int, Field(ge=1)]
    """Small data sets are repeated until this many steps are taken."""
    lr: Annotated[float, Field(gt=0, le=1)]
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    batch: Annotated[int, Field(ge=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    """Share of the steps in which the learning rate rises."""
    clip: Annotated[float, Field(gt=0)]
    """Largest norm of the gradient."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]

    def steps(self, images: int) -> int:
        """Number of steps on `images`; the last, partial batch of an epoch is left out."""
        return max(self.epochs * max(images // self.batch, 1), self.min_steps)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step, counted from 0."""
        return cosine_rate(self.lr, self.warmup, step, steps)


def cosine_rate(peak: float, warmup: float, step: int, steps: int) -> float:
    """Learning rate that rises over `warmup` of the steps and falls to zero as a cosine."""
    rising = max(round(warmup * steps), 1)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * (1 + math.cos(math.pi * (step + 1 - rising) / max(steps - rising, 1))) / 2


def finetune(  # noqa: PLR0913 (the images, their head and the recipe are all variables)
    encoder: Encoder,
    base: Mapping[str, Tensor],
    head: Tensor,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    rng: Generator,
    *,
    extra_loss: ExtraLoss | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Minimises the cross-entropy of a frozen head.

    Args:
        encoder: The image tower.
        base: Weights to start from; not changed.
        head: (C,D), see `benchmark.models.heads.zero_shot_head`.
        images: (n,3,S,S), uint8 or float in [0,1]; an attack passes poisoned ones.
        labels: (n,) int64.
        recipe: Optimiser and schedule.
        rng: Draws the order of the images and nothing else.
        extra_loss: Added to the loss unless it returns None; it needs a generator of its own, so
            that the batches are those of the clean run whatever it draws.
        progress: Called with (steps done, steps in all).

    Returns:
        The fine-tuned weights (not the difference to `base`).
    """
    import torch
    from torch.nn.functional import cross_entropy

    weights = {name: value.detach().clone().requires_grad_() for name, value in base.items()}
    optimiser = torch.optim.AdamW(weights.values(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    total = recipe.steps(len(images))
    with torch.enable_grad():
        for step, chosen in enumerate(_batches(len(images), recipe.batch, total, rng)):
            batch, target = (
                unit_range(images[chosen]).to(head.device),
                labels[chosen].to(head.device),
            )
            scores = logits(encoder(weights, batch), head)
            loss = cross_entropy(scores, target, label_smoothing=recipe.label_smoothing)
            extra = None if extra_loss is None else extra_loss(weights, batch, target, step)
            if extra is not None:
                loss = loss + extra
            optimiser.param_groups[0]["lr"] = recipe.rate(step, total)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(weights.values()), recipe.clip)
            optimiser.step()
            if progress is not None:
                progress(step + 1, total)
    return {name: value.detach() for name, value in weights.items()}


def unit_range(images: Tensor) -> Tensor:
    """Images as float in [0,1]."""
    return images if images.is_floating_point() else images.float() / 255


def _batches(images: int, batch: int, steps: int, rng: Generator):
    """Yields the rows of `steps` batches, without repetition within an epoch."""
    import torch

    size = min(batch, images)
    order, place = torch.randperm(images, generator=rng), 0
    for _ in range(steps):
        if place + size > images:
            order, place = torch.randperm(images, generator=rng), 0
        yield order[place : place + size]
        place += size
