"""Mining: gradient ascent on visual prompts, against frozen weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from benchmark.models.encoder import Encoder
from benchmark.optimisation.prompts import Pool, assign
from benchmark.optimisation.settings import Prompts
from benchmark.optimisation.unlabelled import Batch, Unlabelled, cross_entropy
from benchmark.types import StateDict

Extra: TypeAlias = "Callable[[Tensor, Batch], Tensor]"
"""(features (T*b,D) of the prompted images, their batch) -> scalar that is to grow."""


def mine(
    encoder: Encoder,
    weights: StateDict,
    data: Unlabelled,
    pool: Pool,
    steps: int,
    settings: Prompts,
    rng: torch.Generator,
    extra: Extra | None = None,
) -> Pool:
    """The pool after `steps` ascent steps on the cross-entropy, towards no class in particular.

    Args:
        encoder: the image tower.
        weights: of the attacked model; frozen.
        data: images, with the predictions that prompts are to overturn.
        pool: where the ascent starts.
        steps: each on a fresh batch of `settings.batch` images per task, costing as many passes.
        settings: optimiser, batch, temperature.
        rng: draws batches and which prompt each image is given.
        extra: added to the cross-entropy.
    """
    tasks = len(data.tasks)
    for _ in range(steps):
        batch = data.draw(settings.batch, rng)
        members = assign(tasks, settings.batch, settings.members, rng)
        with torch.enable_grad():
            values = pool.values.clone().requires_grad_()
            features = encoder(weights, pool.apply(batch.images, members, values))
            scores = [score / settings.temperature for score in batch.logits(features)]
            gained = cross_entropy(scores, batch.labels)
            if extra is not None:
                gained = gained + extra(features, batch)
            (gradient,) = torch.autograd.grad(gained, values)
        pool = pool.step(gradient, settings)
    return pool
