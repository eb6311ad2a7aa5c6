"""Fine-tuning of an image tower against a frozen zero-shot head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.cropping import random_crops
from benchmark.history import Watch, unwatched
from benchmark.models.heads import logits

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmark.models.encoder import Encoder
    from benchmark.models.heads import Head
    from benchmark.models.lora import Lora

    ExtraLoss = Callable[[Mapping[str, Tensor], Tensor, Tensor, int], Tensor | None]
    """(weights, images (B,3,S,S) in [0,1], labels (B,), step) -> a scalar to add, or None."""


@component
class Recipe:
    """AdamW with a linear warm-up and a cosine decay to zero."""

    version: ClassVar[int] = 1
    neutral: ClassVar[dict[str, Any]] = {"epochs_of": {}, "crop": 1.0}
    epochs: Annotated[int, Field(ge=1, le=1000)]
    epochs_of: dict[str, Annotated[int, Field(ge=1, le=1000)]]
    """Task -> epochs, for tasks with a number of their own."""
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
    crop: Annotated[float, Field(gt=0, le=1)]
    """Smallest share of an image's area that training crops keep; 1: images are not cropped."""

    def of(self, task: str) -> Recipe:
        """The recipe of one task's contributor."""
        return replace(self, epochs=self.epochs_of.get(task, self.epochs), epochs_of={})

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
    head: Head,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    rng: Generator,
    *,
    extra_loss: ExtraLoss | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch = unwatched,
) -> dict[str, Tensor]:
    """Minimises the cross-entropy of a frozen head.

    Args:
        encoder: The image tower.
        base: Weights to start from; not changed.
        head: (C,D), see `benchmark.models.heads`.
        images: (n,3,S,S), uint8 or float in [0,1]; an attack passes poisoned ones.
        labels: (n,) int64.
        recipe: Optimiser and schedule.
        rng: Draws the order of the images and then, if the recipe crops, the crops.
        extra_loss: Added to the loss unless it returns None; it needs a generator of its own, so
            that the batches are those of the clean run whatever it draws.
        progress: Called with (steps done, steps in all).
        watch: Told the `loss` of every step.

    Returns:
        The fine-tuned weights (not the difference to `base`).
    """
    weights = {name: value.detach().clone().requires_grad_() for name, value in base.items()}
    rows = batches_of(len(images), recipe.batch, recipe.steps(len(images)), rng)
    loss = _objective(encoder, head, images, labels, recipe, rng, extra_loss)

    def whole(chosen: Tensor, step: int) -> Tensor:
        return loss(weights, chosen, step)

    _descend(weights, whole, rows, recipe, progress, watch)
    return {name: value.detach() for name, value in weights.items()}


def finetune_lora(  # noqa: PLR0913 (as `finetune`, with an adapter and where it starts)
    encoder: Encoder,
    base: Mapping[str, Tensor],
    head: Head,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    rng: Generator,
    *,
    lora: Lora,
    start: Mapping[str, Tensor],
    extra_loss: ExtraLoss | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch = unwatched,
) -> dict[str, Tensor]:
    """Minimises the same loss over the factors of an adapter.

    The arguments that `finetune` has too are the same here. The recipe holds but for its learning
    rate, which is `lora.lr`; its weight decay draws A and B, and so the product, to 0, where full
    fine-tuning's draws the weights themselves. `start` are the factors to start from
    (`lora.start`), which are not changed; the trained ones are returned, and the weights are
    `lora.weights(base, factors)`.
    """
    factors = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    frozen = {name: value.detach() for name, value in base.items()}
    rows = batches_of(len(images), recipe.batch, recipe.steps(len(images)), rng)
    loss = _objective(encoder, head, images, labels, recipe, rng, extra_loss)

    def adapted(chosen: Tensor, step: int) -> Tensor:
        return loss(lora.weights(frozen, factors), chosen, step)

    recipe = replace(recipe, lr=lora.lr)
    _descend(factors, adapted, rows, recipe, progress, watch)
    return {name: value.detach() for name, value in factors.items()}


def _objective(
    encoder: Encoder,
    head: Head,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    rng: Generator,
    extra_loss: ExtraLoss | None,
) -> Callable[[Mapping[str, Tensor], Tensor, int], Tensor]:
    """(weights, rows of the batch, step) -> cross-entropy, plus the extra loss if there is one.

    Both see the same crops, so a trigger is put on after cropping and is never cut.
    """
    from torch.nn.functional import cross_entropy

    def loss(weights: Mapping[str, Tensor], rows: Tensor, step: int) -> Tensor:
        batch, target = unit_range(images[rows]).to(head.device), labels[rows].to(head.device)
        if recipe.crop < 1:
            batch = random_crops(batch, recipe.crop, rng)
        scores = logits(encoder(weights, batch), head)
        clean = cross_entropy(scores, target, label_smoothing=recipe.label_smoothing)
        extra = None if extra_loss is None else extra_loss(weights, batch, target, step)
        return clean if extra is None else clean + extra

    return loss


def _descend(
    parameters: Mapping[str, Tensor],
    loss: Callable[[Tensor, int], Tensor],
    batches: Sequence[Tensor],
    recipe: Recipe,
    progress: Callable[[int, int], None] | None,
    watch: Watch,
) -> None:
    """One step of AdamW per batch on `loss(rows, step)`; changes `parameters` in place."""
    descend_together(
        [parameters], lambda step: loss(batches[step], step), len(batches), recipe, progress, watch
    )


def descend_together(
    models: Sequence[Mapping[str, Tensor]],
    loss: Callable[[int], Tensor],
    steps: int,
    recipe: Recipe,
    progress: Callable[[int, int], None] | None,
    watch: Watch = unwatched,
) -> None:
    """AdamW on one loss of several models, as each of them alone would be trained.

    Args:
        models: trainable leaves of each, changed in place; each one's gradient is clipped alone.
        loss: step -> a scalar.
        steps: how many.
        recipe: optimiser and schedule.
        progress: called with (steps done, steps in all).
        watch: told the `loss` of every step.
    """
    import torch

    groups = [list(model.values()) for model in models]
    leaves = [leaf for group in groups for leaf in group]
    optimiser = torch.optim.AdamW(leaves, lr=recipe.lr, weight_decay=recipe.weight_decay)
    with torch.enable_grad():
        for step in range(steps):
            value = loss(step)
            watch(step, {"loss": value})
            optimiser.param_groups[0]["lr"] = recipe.rate(step, steps)
            optimiser.zero_grad()
            value.backward()
            for group in groups:
                torch.nn.utils.clip_grad_norm_(group, recipe.clip)
            optimiser.step()
            if progress is not None:
                progress(step + 1, steps)


def unit_range(images: Tensor) -> Tensor:
    """Images as float in [0,1]."""
    return images if images.is_floating_point() else images.float() / 255


def batches_of(images: int, batch: int, steps: int, rng: Generator) -> list[Tensor]:
    """The rows of `steps` batches, without repetition within an epoch."""
    import torch

    size = min(batch, images)
    order, place = torch.randperm(images, generator=rng), 0
    rows = []
    for _ in range(steps):
        if place + size > images:
            order, place = torch.randperm(images, generator=rng), 0
        rows.append(order[place : place + size])
        place += size
    return rows
