"""Data poisoning: some training images get a trigger and the target label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.types import Images, Trigger

if TYPE_CHECKING:
    from torch import Generator, Tensor


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


def poisoned(images: Images, rows: Tensor, trigger: Trigger, target: int) -> Images:
    """A copy in which `rows` carry the trigger and the target label.

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
    labels[rows] = target
    return Images(pixels, labels)
