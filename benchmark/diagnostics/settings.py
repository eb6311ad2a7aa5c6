"""What a diagnosis measures, as values: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from benchmark.components import component


@component
class Beside:
    """A cell that is shown beside the diagnosed one; it differs in its defence.

    Attributes:
        label: what its line is called.
        words: Hydra words that choose its defence.
    """

    label: Annotated[str, Field(min_length=1)]
    words: Annotated[tuple[str, ...], Field(min_length=1)]


@component
class Diagnosis:
    """How a cell is looked at.

    Attributes:
        alpha: where on the way from the undefended to the defended model linearity is measured.
        images: dev images per task, at most; none that the defence was granted.
        beside: further cells whose curves are drawn.
    """

    version: ClassVar[int] = 1
    alpha: Annotated[float, Field(gt=0, lt=1)]
    images: Annotated[int, Field(ge=1)]
    beside: tuple[Beside, ...]


def words_beside(words: Sequence[str], chosen: str, other: Beside) -> list[str]:
    """The command line of a cell shown beside another.

    Args:
        words: of the diagnosed cell.
        chosen: its defence. Values set on it hold for the other cell too if that has the same
            defence, and are dropped with it otherwise.
        other: the other cell.
    """
    picked = [one.partition("=")[2] for one in other.words if one.startswith("defense=")]
    kept = [one for one in words if not (picked and one.startswith("defense="))]
    if picked and picked[-1] != chosen:
        kept = [one for one in kept if not one.lstrip("+~").startswith("defense.")]
    return [*kept, *other.words]
