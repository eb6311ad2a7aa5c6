"""No stress: the model is used as the defence left it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from benchmark.components import component
from benchmark.types import Actor, Expert, Grant, Model, StateDict, Stressed, Threat

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class NoStress:
    """Changes nothing; `transparent` lets the pipeline use the model's own key."""

    version: ClassVar[int] = 1
    actor: ClassVar[Actor] = "user"
    transparent: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    @property
    def named(self) -> tuple[str, ...]:
        """None."""
        return ()

    def accepts(self, threats: Sequence[Threat]) -> str | None:
        """Any threats."""
        return None

    def __call__(
        self,
        model: Model,
        base: StateDict,
        experts: Sequence[Expert],
        threats: tuple[Threat, ...],
        ctx: Context,
    ) -> Stressed:
        """What came in."""
        return Stressed(model, threats)
