"""How defences split, judge and pay for development images; shared so that all do it alike.

Dev images are split two thirds to train, one third to select. Image passes are the common price:
one image forward and backward is 1, forward only is 1/3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.errors import BenchError
from benchmark.types import Grant, Images, StateDict

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.models.encoder import Encoder
    from benchmark.models.heads import Head

SELECT = 1 / 3
"""Share of the dev images that selects and never trains (docs/protocol.md)."""
FORWARD = 1 / 3
"""Price of one image without a gradient."""


def passes_used(encoder: Encoder) -> float:
    """Image passes that went through the encoder since it was built."""
    return encoder.backward_images + FORWARD * encoder.forward_images


def holdout(images: Images, fraction: float) -> tuple[Images, Images]:
    """Split into (train, select): the last `fraction` of the rows, rounded down, select.

    Deterministic, because `Context.images` has already permuted the rows by the cell's seed.
    """
    count = len(images.images)
    cut = count - int(fraction * count)
    if not 0 < cut < count:
        raise BenchError(
            f"{count} dev images cannot be split into training and selection; "
            "give budget.images=3 or more"
        )

    def rows(part: slice) -> Images:
        labels = None if images.labels is None else images.labels[part]
        return Images(images.images[part], labels)

    return rows(slice(0, cut)), rows(slice(cut, count))


def dev_parts(
    ctx: Context, tasks: Sequence[str], grant: Grant
) -> tuple[dict[str, Images], dict[str, Images]]:
    """The dev images of every task, as (train, select) by task."""
    parts = {task: holdout(ctx.images(task, grant), SELECT) for task in tasks}
    return (
        {task: train for task, (train, _) in parts.items()},
        {task: select for task, (_, select) in parts.items()},
    )


def count_images(parts: Mapping[str, Images]) -> int:
    """Images of all tasks together."""
    return sum(len(part.images) for part in parts.values())


def predictions(features: Tensor, head: Head) -> Tensor:
    """Predicted classes (N,) of features (N,D) under a head (C,D)."""
    from benchmark.models.heads import logits

    return logits(features, head).argmax(dim=-1)


def accuracy(features: Tensor, labels: Tensor, head: Head) -> float:
    """Share in [0,1] of features (N,D) whose prediction is the label (N,)."""
    return agreement(predictions(features, head), labels)


def agreement(first: Tensor, second: Tensor) -> float:
    """Share in [0,1] of rows at which two class vectors (N,) are equal."""
    return float((first == second).double().mean())


def predict_tasks(
    ctx: Context, weights: StateDict, parts: Mapping[str, Images]
) -> dict[str, Tensor]:
    """Predicted classes of every task's images under one encoder and the task's own classifier."""
    return {
        task: predictions(ctx.features(weights, part.images), ctx.classifier(task))
        for task, part in parts.items()
    }


def mean_accuracy(ctx: Context, weights: StateDict, parts: Mapping[str, Images]) -> float:
    """Accuracy in [0,1] on labelled images, averaged over tasks with equal weights."""
    found = predict_tasks(ctx, weights, parts)
    shares = []
    for task, part in parts.items():
        if part.labels is None:
            raise ValueError(f"images of task '{task}' came without labels; grant labels=True")
        shares.append(agreement(found[task], part.labels))
    return sum(shares) / len(shares)
