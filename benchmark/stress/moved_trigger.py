"""The planted trigger, pasted elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from benchmark.attacks.scattered import Scattered
from benchmark.attacks.triggers import Patch, Spot, image_side, only_patches, place_of
from benchmark.components import component
from benchmark.types import Actor, Expert, Grant, Model, StateDict, Stressed, Threat, Trigger

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class MovedTrigger:
    """The same pixels at another place: relocation costs the attacker nothing.

    The model stays as it is, undefended and clean ones included, so the table says whether the
    moved trigger works at all before it says what a defence does against it. [ours]

    Attributes:
        place: where the patch is pasted; "random": at a place of each image's own, fixed by the
            seed and the image.
    """

    version: ClassVar[int] = 1
    actor: ClassVar[Actor] = "attacker"
    place: Spot | Literal["random"]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    @property
    def named(self) -> tuple[str, ...]:
        """None."""
        return ()

    def accepts(self, threats: Sequence[Threat]) -> str | None:
        """Threats by pasted patches: others have no place."""
        return only_patches(threats)

    def __call__(
        self,
        model: Model,
        base: StateDict,
        experts: Sequence[Expert],
        threats: tuple[Threat, ...],
        ctx: Context,
    ) -> Stressed:
        """Move every threat's patch."""
        moved = (self._moved(i, threat.trigger, base, ctx) for i, threat in enumerate(threats))
        pairs = zip(threats, moved, strict=True)
        return Stressed(model, tuple(replace(threat, trigger=new) for threat, new in pairs))

    def _moved(self, i: int, trigger: Trigger, base: StateDict, ctx: Context) -> Trigger:
        assert isinstance(trigger, Patch)  # accepts() saw to it
        if self.place == "random":
            import torch

            seed = int(torch.randint(2**31, (), generator=ctx.rng("place", i)))
            return Scattered(trigger.patch, seed)
        return Patch(trigger.patch, *place_of(self.place, trigger.size, image_side(base)))
