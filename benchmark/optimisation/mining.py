"""Mining: gradient ascent on visual prompts, against frozen weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from benchmark.models.encoder import Encoder
from benchmark.models.heads import Head, logits
from benchmark.optimisation.prompts import Given, Pool
from benchmark.optimisation.unlabelled import Batch, Unlabelled, cross_entropy
from benchmark.types import StateDict

Extra: TypeAlias = "Callable[[Tensor, Batch], Tensor]"
"""(features (T*b,D) of the prompted images, their batch) -> scalar that is to grow."""


def mine(
    encoder: Encoder,
    weights: StateDict | Sequence[StateDict],
    data: Unlabelled,
    pool: Pool,
    steps: int,
    rng: torch.Generator,
    extra: Extra | None = None,
    heads: Sequence[Head] | None = None,
) -> Pool:
    """The pool after `steps` ascent steps towards its goals.

    Args:
        encoder: the image tower.
        weights: of the attacked model, or of one for each task; frozen.
        data: images, with the predictions that prompts are to overturn.
        pool: where the ascent starts; its settings say how it goes on. Each step costs
            `settings.batch` passes per task, on a fresh batch.
        steps: how many.
        rng: draws batches and which prompt each image is given.
        extra: added to what is raised.
        heads: one per task, where the attacked models are not those that the data's heads judge.
    """
    for _ in range(steps):
        batch = data.draw(pool.settings.batch, rng)
        given = pool.assign(batch.labels, rng)
        pool = climbed(encoder, weights, pool, batch, given, extra, heads)
    return pool


def climbed(
    encoder: Encoder,
    weights: StateDict | Sequence[StateDict],
    pool: Pool,
    batch: Batch,
    given: Given,
    extra: Extra | None = None,
    heads: Sequence[Head] | None = None,
) -> Pool:
    """The pool after one ascent step on this batch; the arguments are those of `mine`."""
    with torch.enable_grad():
        values = pool.values.clone().requires_grad_()
        features = _features(encoder, weights, pool.apply(batch.images, given, values))
        scores = _scores(features, batch.heads if heads is None else heads)
        gained = gain([score / pool.settings.temperature for score in scores], batch, given)
        if extra is not None:
            gained = gained + extra(features, batch)
        (gradient,) = torch.autograd.grad(gained, values)
    hits = reached([score.argmax(1) for score in scores], batch.labels, given)
    return pool.noted(given, torch.cat(hits)).step(gradient, given.members)


def _features(encoder: Encoder, weights: StateDict | Sequence[StateDict], images: Tensor) -> Tensor:
    """(T*b,D) of images (T*b,3,H,W), by one model or by one for each task."""
    if isinstance(weights, Mapping):
        return encoder(weights, images)
    parts = images.split(len(images) // len(weights))
    return torch.cat([encoder(own, part) for own, part in zip(weights, parts, strict=True)])


def _scores(features: Tensor, heads: Sequence[Head]) -> list[Tensor]:
    """Per task (b,C) from features (T*b,D)."""
    parts = features.split(len(features) // len(heads))
    return [logits(part, head) for part, head in zip(parts, heads, strict=True)]


def gain(scores: Sequence[Tensor], batch: Batch, given: Given) -> Tensor:
    """What mining raises, of scores (b,C) per task: log p of the goals, or the cross-entropy."""
    if given.goals is None:
        return cross_entropy(scores, batch.labels)
    return -cross_entropy(scores, given.goals)


def reached(found: Sequence[Tensor], labels: Sequence[Tensor], given: Given) -> list[Tensor]:
    """Per task (b,) bool: which predictions (b,) are at their goal, or away from their label."""
    if given.goals is None:
        return [one != own for one, own in zip(found, labels, strict=True)]
    return [one == goal for one, goal in zip(found, given.goals, strict=True)]
