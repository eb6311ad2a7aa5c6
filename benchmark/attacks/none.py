"""No attack: all experts are honest; a reference trigger shows how far a patch alone goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.threat_model import ThreatModel
from benchmark.attacks.triggers import Spot, fixed_patch
from benchmark.components import component
from benchmark.types import Compromise, Expert, Grant, StateDict, Threat

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class NoAttack:
    """Replaces nothing.

    Attributes:
        adversary: task whose images get the reference trigger; nobody attacks.
        target: class they are counted towards.
        place: where the trigger sits.
        size: side of the trigger in pixels.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel("Nothing.", "Nothing.", "Nobody attacks.")
    adversary: str
    target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    @property
    def adversaries(self) -> tuple[str, ...]:
        """Nobody."""
        return ()

    @property
    def victim(self) -> tuple[str, int]:
        """What the reference trigger is counted towards."""
        return self.adversary, self.target

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """The fixed patch of `badnets`, planted by nobody."""
        trigger = fixed_patch(self.place, self.size, base)
        return Compromise({}, (Threat(trigger, self.adversary, self.target, attackers=()),))

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """Nothing was to be planted."""
        return None
