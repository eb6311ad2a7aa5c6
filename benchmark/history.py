"""What a stage measures while it runs: curves to look at, outside of every key and every record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Watch: TypeAlias = "Callable[[int, Mapping[str, float | Tensor]], None]"
"""(step from 0, name -> value there): a number, or a tensor of one element, which is not copied."""
Series = list[list[float | None]]
"""(step, value) pairs; None where the value was not finite."""
POINTS = 200
"""At most so many points of a curve are kept."""


def unwatched(step: int, values: Mapping[str, float | Tensor]) -> None:
    """A `Watch` that forgets."""


class History:
    """Collects the curves of one stage.

    Where a name's steps start anew, since a method descends twice, a new curve begins: `loss`,
    `loss_2`, ...
    """

    def __init__(self) -> None:
        self._curves: dict[str, list[list[tuple[int, float | Tensor]]]] = {}

    def note(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Keep what was measured at a step. Tensors stay where they are: nothing waits for them."""
        for name, value in values.items():
            parts = self._curves.setdefault(name, [[]])
            if parts[-1] and step <= parts[-1][-1][0]:
                parts.append([])
            kept = value if isinstance(value, int | float) else value.detach()
            parts[-1].append((step, kept))

    def plain(self) -> dict[str, Series]:
        """Name -> points, as JSON; empty if nothing was noted."""
        return {
            name if turn == 1 else f"{name}_{turn}": [
                [step, _number(value)] for step, value in thinned(points)
            ]
            for name, parts in self._curves.items()
            for turn, points in enumerate(parts, 1)
        }


def thinned(
    points: Sequence[tuple[int, float | Tensor]], most: int = POINTS
) -> list[tuple[int, float | Tensor]]:
    """At most `most` (2 or more) evenly spaced points, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(at * (len(points) - 1) / (most - 1))] for at in range(most)]


def _number(value: float | Tensor) -> float | None:
    """To seven digits, as float32 has them."""
    number = float(f"{float(value):.7g}")
    return number if isfinite(number) else None
