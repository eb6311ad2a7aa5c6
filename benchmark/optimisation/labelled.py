"""Images of several tasks with labels, true ones or a frozen model's, in joint batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.context import Context
from benchmark.models.heads import Head, logits
from benchmark.training import unit_range
from benchmark.types import Images


@dataclass(frozen=True)
class LabelledBatch:
    """Images of every task, one task after the other.

    Attributes:
        images: (N,3,H,W) float in [0,1], before normalisation.
        labels: per task (b,) int64.
        heads: per task, as the model at hand uses them.
    """

    images: Tensor
    labels: tuple[Tensor, ...]
    heads: tuple[Head, ...]

    @property
    def sizes(self) -> list[int]:
        """Images per task."""
        return [len(labels) for labels in self.labels]

    @property
    def owners(self) -> Tensor:
        """(N,) int64: the task of every image, by its place in `heads`."""
        return torch.repeat_interleave(torch.arange(len(self.heads)), torch.tensor(self.sizes))

    def scores(self, features: Tensor) -> list[Tensor]:
        """Per task (b,C) from features (N,D) of this batch's images."""
        parts = features.split(self.sizes)
        return [logits(part, head) for part, head in zip(parts, self.heads, strict=True)]

    def cross_entropy(self, features: Tensor) -> Tensor:
        """Mean over tasks of the mean cross-entropy against the labels."""
        losses = [
            torch.nn.functional.cross_entropy(scores, labels)
            for scores, labels in zip(self.scores(features), self.labels, strict=True)
        ]
        return torch.stack(losses).mean()


def draw(
    ctx: Context, parts: Mapping[str, Images], per_task: int, rngs: Mapping[str, torch.Generator]
) -> LabelledBatch:
    """A random batch of labelled images; at most `per_task` of each task, none of them twice."""
    images, labels = [], []
    for task, part in parts.items():
        assert part.labels is not None  # granted, or predicted
        rows = torch.randperm(len(part.images), generator=rngs[task])[:per_task]
        rows = rows.to(part.labels.device)
        images.append(unit_range(part.images[rows]))
        labels.append(part.labels[rows])
    return LabelledBatch(torch.cat(images), tuple(labels), tuple(map(ctx.classifier, parts)))
