"""A suite: which tasks are merged, and how models are measured on them."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from benchmark.components import component


@component
class Suite:
    """The tasks whose experts are merged.

    Attributes:
        tasks: names of data sets, each once, in the order in which experts are merged.
        clean_images: on every task but the victim's, how many of the first test images are
            measured; None: all. The victim's are always all measured.
        flip_images: on every task but the victim's, how many of the first test images also get the
            trigger (for `flip_rate`).
    """

    version: ClassVar[int] = 1
    tasks: Annotated[tuple[str, ...], Field(min_length=2)]
    clean_images: Annotated[int, Field(ge=1)] | None
    flip_images: Annotated[int, Field(ge=1)]

    def __post_init__(self) -> None:
        """Refuse a task named twice."""
        twice = {task for task in self.tasks if self.tasks.count(task) > 1}
        if twice:
            raise ValueError(f"task '{min(twice)}' is named twice; name each once")
