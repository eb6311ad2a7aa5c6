"""Visual prompts: learnable perturbations that always leave valid pixels.

A prompt lives in pixel space [0,1], before normalisation, like the triggers it stands in for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from benchmark.optimisation.settings import Prompts

DECAY = (0.9, 0.999)
"""Adam's."""


@dataclass(frozen=True)
class Pool:
    """M prompts and the state of the ascent on them.

    Attributes:
        values: (M,3,H,W), within [low, high] and zero off the mask.
        masks: (M,1,H,W) of zeros and ones.
        pasted: (M,1,1,1): 1 where the prompt replaces pixels, 0 where it is added and clipped.
        low: (M,1,1,1) least value.
        high: (M,1,1,1) largest value.
        first: (M,3,H,W) Adam's mean of the gradient.
        second: (M,3,H,W) Adam's mean of its square.
        steps: taken so far.
    """

    values: Tensor
    masks: Tensor
    pasted: Tensor
    low: Tensor
    high: Tensor
    first: Tensor
    second: Tensor
    steps: int = 0

    def apply(self, images: Tensor, members: Tensor, values: Tensor | None = None) -> Tensor:
        """Prompted images.

        Args:
            images: (B,3,H,W) in [0,1].
            members: (B,) which prompt each image is given.
            values: used instead of the pool's own, to differentiate by them.
        """
        values = self.values if values is None else values
        masks = self.masks[members]
        kept = images * (1 - masks * self.pasted[members])
        return (kept + masks * values[members]).clamp(0, 1)

    def step(self, gradient: Tensor, settings: Prompts) -> Pool:
        """One ascent step along `gradient` (M,3,H,W), projected onto range and mask."""
        count = self.steps + 1
        gradient = gradient * self.masks
        first = self.first.lerp(gradient, 1 - DECAY[0])
        second = self.second.lerp(gradient.square(), 1 - DECAY[1])
        if settings.optimiser == "sign":
            move = gradient.sign()
        else:
            spread = (second / (1 - DECAY[1] ** count)).sqrt() + 1e-12
            move = first / (1 - DECAY[0] ** count) / spread
        values = self.values + settings.lr * (self.high - self.low) / 2 * move
        values = values.clamp(self.low, self.high) * self.masks
        return replace(self, values=values, first=first, second=second, steps=count)


def new_pool(
    settings: Prompts, tasks: int, size: int, rng: torch.Generator, device: str = "cpu"
) -> Pool:
    """A fresh pool for several tasks: task t owns members t*m to (t+1)*m, m = settings.members.

    Args:
        settings: how many members of which kind.
        tasks: T; the pool has T*m members.
        size: side of the images in pixels.
        rng: draws start values, sizes and places, on the CPU.
        device: where the pool then lives.
    """
    kinds = [kind for _ in range(tasks) for kind in _kinds(settings, rng)]
    drawn = [_member(kind, settings, size, rng) for kind in kinds]
    masks = torch.stack([mask for mask, _, _ in drawn])
    pasted, high = (
        torch.tensor(column).view(-1, 1, 1, 1)
        for column in ([paste for _, paste, _ in drawn], [top for _, _, top in drawn])
    )
    low = high * (pasted - 1)
    uniform = torch.rand(len(kinds), 3, size, size, generator=rng)
    width = (high - low) * torch.where(pasted == 1, 1.0, settings.start)
    values = ((low + high) / 2 + (uniform - 0.5) * width) * masks
    still = torch.zeros_like(values)
    return Pool(
        values=values.to(device),
        masks=masks.to(device),
        pasted=pasted.to(device),
        low=low.to(device),
        high=high.to(device),
        first=still.to(device),
        second=still.to(device),
    )


Kind: TypeAlias = "str | tuple[int, int]"
"""Of a member: "frame", "full", or the cell (row, column) that a patch lies in."""


def _kinds(settings: Prompts, rng: torch.Generator) -> list[Kind]:
    """One task's members; patches go to cells of a grid, so that no place is left out for long."""
    side = _grid(settings)
    cells = [divmod(int(cell), side) for cell in torch.randperm(side * side, generator=rng)]
    return ["frame"] * settings.frames + ["full"] * settings.fulls + cells[: settings.patches]


def _grid(settings: Prompts) -> int:
    """Cells per side of the image: the fewest that give every patch a cell of its own."""
    return math.isqrt(max(settings.patches - 1, 0)) + 1


def _member(
    kind: Kind, settings: Prompts, size: int, rng: torch.Generator
) -> tuple[Tensor, float, float]:
    """Mask (1,H,W), whether it replaces pixels (1 or 0), and the largest value."""
    mask = torch.zeros(1, size, size)
    if kind == "full":
        return mask + 1, 0.0, settings.bound
    if kind == "frame":
        width = settings.frame_width
        mask = mask + 1
        mask[:, width : size - width, width : size - width] = 0
        return mask, 0.0, 1.0
    assert not isinstance(kind, str)
    smallest, largest = (min(side, size) for side in settings.patch_size)
    side, cells = _whole(smallest, largest, rng), _grid(settings)
    top, left = (_start(cell, cells, side, size, rng) for cell in kind)
    mask[:, top : top + side, left : left + side] = 1
    return mask, 1.0, 1.0


def _start(cell: int, cells: int, side: int, size: int, rng: torch.Generator) -> int:
    """Where a square starts along one axis: anywhere in its cell if it fits, else around it."""
    low, high = cell * size // cells, (cell + 1) * size // cells - side
    start = _whole(min(low, high), max(low, high), rng)
    return min(max(start, 0), size - side)


def _whole(low: int, high: int, rng: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def assign(tasks: int, per_task: int, members: int, rng: torch.Generator) -> Tensor:
    """(T*b,) the member of each image of a batch: each task's own, as evenly as possible."""
    start = int(torch.randint(members, (), generator=rng))
    within = (torch.arange(per_task) + start) % members
    return torch.cat([task * members + within for task in range(tasks)])


def shuffled(pool: Pool, rng: torch.Generator) -> Pool:
    """The occlusion control: the same pixels, permuted within each mask."""
    values = pool.values.clone()
    for prompt, mask in zip(values, pool.masks, strict=True):
        inside = mask[0] == 1
        pixels = prompt[:, inside]
        prompt[:, inside] = pixels[:, torch.randperm(pixels.shape[1], generator=rng)]
    return replace(pool, values=values)
