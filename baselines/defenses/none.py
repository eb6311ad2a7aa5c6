"""No defence: the merge as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from benchmark.components import component
from benchmark.types import Expert, Grant, Merge, Model, Place, StateDict

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class NoDefense:
    """Returns what the merge returns; `transparent` lets the pipeline use the merge's own key."""

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"
    transparent: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, merge: Merge) -> str | None:
        """Any merge."""
        return None

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """The undefended merge."""
        return merge(base, experts, ctx)
