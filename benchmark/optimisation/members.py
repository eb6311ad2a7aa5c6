"""The members of a prompt pool as they are drawn: mask, range, and places they may take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.optimisation.settings import Prompts


@dataclass(frozen=True)
class Drawn:
    """One member before it has values.

    Attributes:
        mask: (1,H,W) of zeros and ones.
        pasted: 1 if it replaces pixels, 0 if it is added to them.
        high: its largest value; the least is 0 where pasted, else -high.
        offset: least shift (rows, columns) of a moving member.
        places: places along each axis, `stride` apart.
    """

    mask: Tensor
    pasted: float
    high: float
    offset: tuple[int, int] = (0, 0)
    places: tuple[int, int] = (1, 1)


def drawn(settings: Prompts, size: int, rng: torch.Generator) -> list[Drawn]:
    """One goal's members: frames, then full images, then patches."""
    frames = [_frame(settings, size)] * settings.frames
    fulls = [Drawn(torch.ones(1, size, size), 0.0, settings.bound)] * settings.fulls
    return [*frames, *fulls, *_patches(settings, size, rng)]


def _frame(settings: Prompts, size: int) -> Drawn:
    width = settings.frame_width
    mask = torch.ones(1, size, size)
    mask[:, width : size - width, width : size - width] = 0
    return Drawn(mask, 0.0, 1.0)


def _patches(settings: Prompts, size: int, rng: torch.Generator) -> list[Drawn]:
    """Patches in cells of a grid, so that no place is left out for long; or moving ones."""
    cells = _root(settings.patches)
    if settings.places == "moving":
        numbers = list(range(settings.patches))
        place = _moving
    else:
        numbers = torch.randperm(cells * cells, generator=rng).tolist()[: settings.patches]
        place = _fixed
    return [place(divmod(number, cells), cells, settings, size, rng) for number in numbers]


def _root(patches: int) -> int:
    """Cells per side of a square grid: the fewest that give every patch a cell of its own."""
    return math.isqrt(max(patches - 1, 0)) + 1


def _fixed(
    cell: tuple[int, int], cells: int, settings: Prompts, size: int, rng: torch.Generator
) -> Drawn:
    side = _side(settings, size, rng)
    top, left = (_start(one, cells, side, size, rng) for one in cell)
    mask = torch.zeros(1, size, size)
    mask[:, top : top + side, left : left + side] = 1
    return Drawn(mask, 1.0, 1.0)


def _moving(
    cell: tuple[int, int], cells: int, settings: Prompts, size: int, rng: torch.Generator
) -> Drawn:
    """Its content is kept in the upper left corner; the cell gives its offset on the grid."""
    side = _side(settings, size, rng)
    room = size - side
    mask = torch.zeros(1, size, size)
    mask[:, :side, :side] = 1
    down, right = (min(one * settings.stride // cells, room) for one in cell)
    places = (room - down) // settings.stride + 1, (room - right) // settings.stride + 1
    return Drawn(mask, 1.0, 1.0, (down, right), places)


def _side(settings: Prompts, size: int, rng: torch.Generator) -> int:
    smallest, largest = (min(side, size) for side in settings.patch_size)
    return _whole(smallest, largest, rng)


def _start(cell: int, cells: int, side: int, size: int, rng: torch.Generator) -> int:
    """Where a square starts along one axis: anywhere in its cell if it fits, else around it."""
    low, high = cell * size // cells, (cell + 1) * size // cells - side
    start = _whole(min(low, high), max(low, high), rng)
    return min(max(start, 0), size - side)


def _whole(low: int, high: int, rng: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))
