"""Mined prompts as pictures: what they look like, and what they do to an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.artifacts import below
from benchmark.types import StateDict, Trigger

if TYPE_CHECKING:
    from numpy import ndarray

COLUMNS = 8
"""Prompts side by side."""
GAP = 4
"""Pixels of the sheet between two pictures; three times as many after the true trigger."""
SIDE = 96
"""A picture is enlarged by the smallest whole number that makes it at least this wide."""


def prompts_of(artifacts: StateDict) -> dict[str, tuple[Tensor, Tensor]]:
    """Task -> prompts (M,3,H,W) and their masks (M,1,H,W) among a defended model's by-products."""
    values, masks = below(artifacts, "prompt/"), below(artifacts, "mask/")
    return {task: (value, masks[task]) for task, value in values.items()}


def prompted(images: Tensor, values: Tensor, masks: Tensor) -> Tensor:
    """Images with a prompt each, as `benchmark.optimisation.prompts.Pool.apply` makes them.

    A pool's by-products do not say which members replace pixels and which add to them; one that
    only replaces has no negative value, one that adds starts with both signs.

    Args:
        images: (B,3,H,W) in [0,1].
        values: (B,3,H,W), zero off the mask.
        masks: (B,1,H,W) of zeros and ones.
    """
    pasted = (values >= 0).flatten(1).all(1).view(-1, 1, 1, 1)
    return (torch.where(pasted, images * (1 - masks), images) + values * masks).clamp(0, 1)


def given(images: Tensor, values: Tensor, masks: Tensor) -> Tensor:
    """`prompted`, each image by the next member of the pool in turn."""
    members = torch.arange(len(images), device=images.device) % len(values)
    return prompted(images, values[members], masks[members])


def sheet(picture: Tensor, values: Tensor, masks: Tensor, trigger: Trigger | None) -> ndarray:
    """Prompts on grey and, below each, on a picture; the true trigger, if any, to their left.

    Args:
        picture: (3,H,W) in [0,1].
        values: (M,3,H,W).
        masks: (M,1,H,W).
        trigger: of the attack.

    Returns:
        (rows, columns, 4) uint8, enlarged without smoothing; transparent between the pictures.
    """
    grounds = [torch.full_like(picture, 0.5), picture]
    rows = []
    for start in range(0, len(values), COLUMNS):
        chunk = slice(start, start + COLUMNS)
        for ground in grounds:
            same = ground.expand(len(values[chunk]), -1, -1, -1)
            shown = list(prompted(same, values[chunk], masks[chunk]))
            true = trigger(ground[None])[0] if trigger is not None and start == 0 else None
            rows.append((true, shown))
    return _pasted(rows, picture.shape[-1], with_trigger=trigger is not None)


def _pasted(
    rows: list[tuple[Tensor | None, list[Tensor]]], width: int, *, with_trigger: bool
) -> ndarray:
    """The pictures on a transparent ground, pairs of rows apart."""
    factor = -(-SIDE // width)
    side = width * factor
    left = side + 3 * GAP if with_trigger else 0
    columns = max(len(shown) for _, shown in rows)
    tops = [at * (side + GAP) + 2 * GAP * (at // 2) for at in range(len(rows))]
    canvas = torch.zeros(tops[-1] + side, left + columns * (side + GAP) - GAP, 4).byte()
    for top, (true, shown) in zip(tops, rows, strict=True):
        places = [left + column * (side + GAP) for column in range(len(shown))]
        drawn = list(zip(places, shown, strict=True))
        for place, one in [*drawn, *([] if true is None else [(0, true)])]:
            canvas[top : top + side, place : place + side] = _enlarged(one, factor)
    return canvas.numpy()


def _enlarged(picture: Tensor, factor: int) -> Tensor:
    """(3,H,W) in [0,1] as opaque (H*factor,W*factor,4) uint8."""
    pixels = (picture * 255).round().byte().permute(1, 2, 0)
    opaque = torch.cat([pixels, torch.full_like(pixels[..., :1], 255)], dim=2)
    return opaque.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def trigger_on(triggers: Mapping[str, Trigger], task: str) -> Trigger | None:
    """The trigger to show beside a task's prompts: its own, else any, else none."""
    return triggers.get(task) or next(iter(triggers.values()), None)
