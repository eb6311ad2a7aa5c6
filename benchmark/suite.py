"""A suite: which tasks are merged, and how models are measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from benchmark.components import component


@component
class Suite:
    """The tasks whose experts are merged.

    Attributes:
        tasks: names of data sets, each once, in the order in which experts are merged.
        clean_images: on every task but the victims', how many of the first test images are
            measured; None: all. The victims' are always all measured.
        flip_images: on every task but the victim's, how many of the first test images also get the
            trigger (for `flip_rate`).
        curve: s of the points θ_m + s (θ_def - θ_m) that are measured of every defended merge,
            ascending, 0 and 1 among them; empty: none.
        curve_images: per task, the victim's included, how many of the first images each point is
            measured on; None: no curve.
        evaluate: which images models are measured on. `dev` is for development: the dev images
            beyond the first `granted` of the order in which methods are handed theirs.
        granted: the largest number of dev images per task that any component may be granted.
        precision: of the encoder's products while models are measured; None: the backbone's.
    """

    version: ClassVar[int] = 1
    neutral: ClassVar[Mapping[str, Any]] = {"precision": None}
    tasks: Annotated[tuple[str, ...], Field(min_length=2)]
    clean_images: Annotated[int, Field(ge=1)] | None
    flip_images: Annotated[int, Field(ge=1)]
    curve: tuple[Annotated[float, Field(ge=0, le=4)], ...]
    curve_images: Annotated[int, Field(ge=1)] | None
    evaluate: Literal["test", "dev"]
    granted: Annotated[int, Field(ge=0)]
    precision: Literal["float32", "bfloat16", "float16"] | None

    def __post_init__(self) -> None:
        """Refuse a task named twice, and a curve without its ends."""
        twice = {task for task in self.tasks if self.tasks.count(task) > 1}
        if twice:
            raise ValueError(f"task '{min(twice)}' is named twice; name each once")
        rising = all(one < other for one, other in pairwise(self.curve))
        if self.curve and not (rising and {0.0, 1.0} <= set(self.curve)):
            raise ValueError(
                f"curve={list(self.curve)} must rise and hold 0 (undefended) and 1 (defended)"
            )
