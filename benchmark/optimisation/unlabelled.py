"""Unlabelled images of several tasks, with what a frozen model says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.context import Context
from benchmark.models.heads import Head, logits
from benchmark.types import Images, StateDict


@dataclass(frozen=True)
class Batch:
    """Equally many images of every task, one task after the other.

    Attributes:
        images: (T*b,3,H,W) float in [0,1], before normalisation.
        features: (T*b,D) of the frozen model, not normalised.
        labels: per task (b,) int64: the frozen model's own predictions.
        log_probs: per task (b,C): log of its softmax.
        heads: per task, as the frozen model uses them.
    """

    images: Tensor
    features: Tensor
    labels: tuple[Tensor, ...]
    log_probs: tuple[Tensor, ...]
    heads: tuple[Head, ...]

    @property
    def per_task(self) -> int:
        """Images of each task."""
        return len(self.images) // len(self.heads)

    def first(self, per_task: int) -> tuple[Batch, Tensor]:
        """The batch of the first images of every task, and which rows of this one they are."""
        size = self.per_task
        within = torch.arange(min(per_task, size))
        rows = torch.cat([task * size + within for task in range(len(self.heads))])
        part = Batch(
            images=self.images[rows],
            features=self.features[rows],
            labels=tuple(labels[within] for labels in self.labels),
            log_probs=tuple(frozen[within] for frozen in self.log_probs),
            heads=self.heads,
        )
        return part, rows

    def logits(self, features: Tensor) -> list[Tensor]:
        """Per task (b,C) from features (T*b,D) of this batch's images."""
        parts = features.split(self.per_task)
        return [logits(part, head) for part, head in zip(parts, self.heads, strict=True)]


@dataclass(frozen=True)
class Unlabelled:
    """Images of every task, uint8, with the frozen model's features (computed once).

    Attributes:
        heads: task -> its head, as the frozen model uses it.
        images: task -> (N,3,H,W) uint8; N may differ from task to task.
        features: task -> (N,D) of the frozen model, not normalised.
    """

    heads: Mapping[str, Head]
    images: Mapping[str, Tensor]
    features: Mapping[str, Tensor]

    @property
    def tasks(self) -> tuple[str, ...]:
        """In the order of `heads`."""
        return tuple(self.heads)

    @property
    def total(self) -> int:
        """Images of all tasks."""
        return sum(len(images) for images in self.images.values())

    @property
    def classes(self) -> tuple[int, ...]:
        """Of each task."""
        return tuple(len(head) for head in self.heads.values())

    @property
    def image_side(self) -> int:
        """In pixels."""
        return next(iter(self.images.values())).shape[-1]

    def labels(self, task: str) -> Tensor:
        """(N,) int64: the frozen model's own predictions."""
        return logits(self.features[task], self.heads[task]).argmax(1)

    def mean_squared_norm(self) -> float:
        """Mean of |f|^2 over all images: the unit of feature energies."""
        every = torch.cat(list(self.features.values()))
        return float(every.square().sum(1).mean())

    def rows(self, chosen: Mapping[str, Tensor]) -> Batch:
        """The batch of these rows; equally many of every task."""
        features = {task: self.features[task][chosen[task]] for task in self.tasks}
        scores = {task: logits(features[task], self.heads[task]) for task in self.tasks}
        images = torch.cat([self.images[task][chosen[task]] for task in self.tasks])
        return Batch(
            images=images.float() / 255,
            features=torch.cat(list(features.values())),
            labels=tuple(score.argmax(1) for score in scores.values()),
            log_probs=tuple(score.log_softmax(1) for score in scores.values()),
            heads=tuple(self.heads.values()),
        )

    def draw(self, per_task: int, rng: torch.Generator) -> Batch:
        """A random batch, without repetition within a task where it has enough images."""
        return self.rows(
            {task: _some(len(self.images[task]), per_task, rng) for task in self.tasks}
        )

    def first(self, per_task: int) -> Batch:
        """The first images of every task, at most as many as the smallest task has."""
        count = min(per_task, *(len(images) for images in self.images.values()))
        return self.rows({task: torch.arange(count) for task in self.tasks})


def _some(available: int, wanted: int, rng: torch.Generator) -> Tensor:
    """`wanted` rows below `available`: whole permutations, the last one cut."""
    rounds = -(-wanted // available)
    orders = [torch.randperm(available, generator=rng) for _ in range(rounds)]
    return torch.cat(orders)[:wanted]


def freeze(
    ctx: Context, model: StateDict, parts: Mapping[str, Images], batch: int = 500
) -> Unlabelled:
    """Images by task with the features of `model`; costs one forward pass per image."""
    images = {task: part.images for task, part in parts.items()}
    features = {task: ctx.features(model, every, batch) for task, every in images.items()}
    return Unlabelled({task: ctx.classifier(task) for task in images}, images, features)


def cross_entropy(scores: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Mean over tasks of the mean cross-entropy of scores (b,C) against labels (b,)."""
    losses = [
        torch.nn.functional.cross_entropy(score, label)
        for score, label in zip(scores, labels, strict=True)
    ]
    return torch.stack(losses).mean()
