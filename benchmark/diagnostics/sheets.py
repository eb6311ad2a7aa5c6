"""Mined prompts as pictures: what they look like, and what they do to an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.artifacts import below
from benchmark.types import StateDict, Trigger

if TYPE_CHECKING:
    from numpy import ndarray

GAP = 4
"""Pixels of the sheet between two pictures; three times as many between its parts."""
PICTURE, CONTENT, WIDTH = 96, 48, 832
"""Least side of a whole image, least side of a prompt's content, and room for prompts in a row."""


def prompts_of(artifacts: StateDict) -> dict[str, tuple[Tensor, Tensor]]:
    """Task -> prompts (M,3,H,W) and their masks (M,1,H,W) among a defended model's by-products."""
    values, masks = below(artifacts, "prompt/"), below(artifacts, "mask/")
    return {task: (value, masks[task]) for task, value in values.items()}


def prompted(images: Tensor, values: Tensor, masks: Tensor) -> Tensor:
    """Images with a prompt each, as `benchmark.optimisation.prompts.Pool.apply` makes them.

    By-products do not say which members replace pixels and which add to them: one that replaces
    has no negative value, one that adds starts with both signs. Nor do they say which members
    move: those are put where they are kept, in the upper left corner.

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


def sheet(picture: Tensor, values: Tensor, masks: Tensor, trigger: Trigger) -> ndarray:
    """The true trigger beside every mined prompt.

    From left to right: the picture with the trigger, below it with the first prompt; what the
    trigger changes on grey; the same of every prompt, in the pool's order.

    Args:
        picture: (3,H,H) in [0,1].
        values: (M,3,H,H).
        masks: (M,1,H,H).
        trigger: of the attack.

    Returns:
        (rows, columns, 4) uint8, enlarged without smoothing; transparent between the pictures.
    """
    grey = torch.full_like(picture, 0.5)
    triggered = trigger(grey[None])
    shown = torch.cat([triggered, prompted(grey.expand_as(values), values, masks)])
    changed = torch.cat([(triggered != grey).any(1), masks[:, 0] > 0])
    contents = cropped(shown, changed)
    first = prompted(picture[None], values[:1], masks[:1])[0]
    left = [_enlarged(one, PICTURE) for one in (trigger(picture[None])[0], first)]
    own, *mined = (_enlarged(one, CONTENT) for one in contents)
    return _beside([_stacked(left), own, _grid(mined)]).numpy()


def cropped(pictures: Tensor, changed: Tensor) -> Tensor:
    """Every picture cut to the smallest square that holds any one's changed pixels.

    Args:
        pictures: (B,3,H,H).
        changed: (B,H,H) bool.

    Returns:
        (B,3,k,k): squares lie where the changed pixels start, but inside the picture.
    """
    side = pictures.shape[-1]
    boxes = [_box(one) for one in changed]
    k = max(1, *(extent for _, _, extent in boxes))
    squares = []
    for picture, (top, left, _) in zip(pictures, boxes, strict=True):
        row, col = min(top, side - k), min(left, side - k)
        squares.append(picture[:, row : row + k, col : col + k])
    return torch.stack(squares)


def _box(changed: Tensor) -> tuple[int, int, int]:
    """First row, first column and longer side of the box around the true pixels of (H,W)."""
    rows, cols = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
    if not len(rows):
        return 0, 0, 0
    extent = max(int(rows[-1] - rows[0]), int(cols[-1] - cols[0])) + 1
    return int(rows[0]), int(cols[0]), extent


def _enlarged(picture: Tensor, least: int) -> Tensor:
    """(3,k,k) in [0,1] as an opaque (s,s,4) uint8, s the first multiple of k from `least` on."""
    factor = -(-least // picture.shape[-1])
    pixels = (picture * 255).round().byte().permute(1, 2, 0)
    opaque = torch.cat([pixels, torch.full_like(pixels[..., :1], 255)], dim=2)
    return opaque.repeat_interleave(factor, 0).repeat_interleave(factor, 1)


def _stacked(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures of one size below each other."""
    gap = torch.zeros(GAP, *pictures[0].shape[1:], dtype=torch.uint8)
    return torch.cat([part for one in pictures for part in (gap, one)][1:])


def _grid(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures of one size in rows, from left to right and from top to bottom."""
    side = pictures[0].shape[0]
    columns = min(len(pictures), max(1, (WIDTH + GAP) // (side + GAP)))
    rows = -(-len(pictures) // columns)
    canvas = torch.zeros(rows * (side + GAP) - GAP, columns * (side + GAP) - GAP, 4).byte()
    for at, one in enumerate(pictures):
        top, left = ((side + GAP) * place for place in divmod(at, columns))
        canvas[top : top + side, left : left + side] = one
    return canvas


def _beside(parts: Sequence[Tensor]) -> Tensor:
    """Parts of any height side by side, flush at the top."""
    height, space = max(len(one) for one in parts), 3 * GAP
    width = sum(one.shape[1] + space for one in parts) - space
    canvas, left = torch.zeros(height, width, 4).byte(), 0
    for one in parts:
        canvas[: len(one), left : left + one.shape[1]] = one
        left += one.shape[1] + space
    return canvas
