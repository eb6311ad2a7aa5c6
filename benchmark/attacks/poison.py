"""Data poisoning: some training images get a trigger and the target label."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from benchmark.errors import BenchError
from benchmark.types import Images, Trigger

if TYPE_CHECKING:
    from torch import Generator, Tensor

log = logging.getLogger(__name__)


def dirty_label(
    images: Images,
    rate: float,
    target: int,
    exclude_target: bool,
    trigger: Trigger,
    rng: Generator,
) -> Images:
    """Poison `rate` of the images with the trigger and the target label, and log how many."""
    assert images.labels is not None  # granted with labels
    rows = poisoned_rows(images.labels, rate, target, exclude_target, rng)
    already = int((images.labels[rows.to(images.labels.device)] == target).sum())
    log.info(
        "%d of %d images poisoned, %d of them of class %d already",
        len(rows), len(images.labels), already, target,
    )  # fmt: skip
    return poisoned(images, rows, trigger, target)


def poisoned_rows(
    labels: Tensor, rate: float, target: int, exclude_target: bool, rng: Generator
) -> Tensor:
    """Rows to poison: round(rate * N), drawn without replacement from all rows.

    Args:
        labels: (N,) int64.
        rate: share of all rows, in [0,1].
        target: the target class.
        exclude_target: leave out drawn rows that are of the target class already. BackdoorBench
            keeps them: their label stays, but they get the trigger.
        rng: the attack's own generator.

    Returns:
        Sorted rows (K,) int64.
    """
    import torch

    drawn = torch.randperm(len(labels), generator=rng)[: round(rate * len(labels))].sort().values
    return drawn[labels[drawn.to(labels.device)].cpu() != target] if exclude_target else drawn


def class_rows(labels: Tensor, rate: float, target: int, rng: Generator) -> Tensor:
    """Rows to poison with a clean label: `rate` of those of the target class, at least one.

    Args:
        labels: (N,) int64.
        rate: share of the rows of the target class, in [0,1]. (BackdoorBench's share of all rows
            cannot be had where the class is smaller.)
        target: the target class.
        rng: the attack's own generator.

    Returns:
        Sorted rows (K,) int64, drawn without replacement; none at rate 0.
    """
    import torch

    of_class = (labels == target).nonzero().flatten().cpu()
    if not len(of_class):
        raise BenchError(
            f"none of {len(labels)} training images is of class {target}, so none can be poisoned "
            "with its own label; choose another attack.target"
        )
    count = max(round(rate * len(of_class)), 1) if rate else 0
    return of_class[torch.randperm(len(of_class), generator=rng)[:count]].sort().values


def poisoned(images: Images, rows: Tensor, trigger: Trigger, target: int | None) -> Images:
    """A copy in which `rows` carry the trigger and the target label; None: their own label.

    8-bit images stay 8-bit: triggered pixels are rounded to the nearest multiple of 1/255, which
    changes nothing for patches made of such values.
    """
    import torch

    if images.labels is None:
        raise ValueError("poisoning needs labels; ask for them with Grant(labels=True)")
    pixels, labels = images.images.clone(), images.labels.clone()
    rows = rows.to(pixels.device)
    chosen = pixels[rows]
    if chosen.dtype == torch.uint8:
        pixels[rows] = trigger(chosen.float() / 255).mul(255).round().to(torch.uint8)
    else:
        pixels[rows] = trigger(chosen)
    if target is not None:
        labels[rows] = target
    return Images(pixels, labels)
