"""An adversarial patch alone: all experts are honest, and BadMerging's trigger is shown to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.badmerging_on import BadMergingOn, staged_trigger
from benchmark.attacks.planting import TRAIN
from benchmark.attacks.threat_model import OWN_IMAGES, ThreatModel
from benchmark.attacks.triggers import Spot, image_side, place_of
from benchmark.attacks.universal import Search
from benchmark.components import component
from benchmark.types import Compromise, Expert, Grant, StateDict, Threat

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class TriggerOnly:
    """Stage 1 of BadMerging-On (Zhang et al., CCS 2024) without stage 2: nobody is poisoned.

    The patch is, bit for bit, that of `badmerging_on` with the same values. What it reaches on a
    merge is an adversarial patch's success, no backdoor's; a defence cannot remove what was never
    planted, yet it may make a model more or less easy to fool.

    Attributes:
        adversary: task whose images the patch is searched on; also the victim.
        target: class that triggered images should go to.
        place: where the patch sits.
        size: its side in pixels.
        trigger_steps: steps of the trigger search.
        trigger_lr: its learning rate.
        trigger_batch: its images per step.
        trigger_heldout: training images that only measure its progress.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        "The public pre-trained weights, the victim's task and its head; not the merge.",
        "Test images only; every upload is honest.",
        OWN_IMAGES,
    )
    adversary: str
    target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]
    trigger_steps: Annotated[int, Field(ge=0)]
    trigger_lr: Annotated[float, Field(gt=0, le=100)]
    trigger_batch: Annotated[int, Field(ge=1)]
    trigger_heldout: Annotated[int, Field(ge=1)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Labelled training images of the victim's task."""
        return (TRAIN,)

    @property
    def adversaries(self) -> tuple[str, ...]:
        """Nobody uploads anything bad."""
        return ()

    @property
    def victim(self) -> tuple[str, int]:
        """The task whose images get the patch."""
        return self.adversary, self.target

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Search the patch; replace nothing."""
        box = (self.size, *place_of(self.place, self.size, image_side(base)))
        search = Search(
            self.trigger_steps, self.trigger_lr, self.trigger_batch, self.trigger_heldout
        )
        # Under the other attack's name, its draws and its stage in the store are shared.
        named = (*ctx.role[:1], f"{BadMergingOn.__module__}.{BadMergingOn.__qualname__}")
        images = ctx.images(self.adversary, TRAIN).images
        trigger = staged_trigger(
            base, images, self.adversary, self.target, box, search, ctx.narrowed(role=named)
        )
        return Compromise({}, (Threat(trigger, self.adversary, self.target, attackers=()),))

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """Nothing was to be planted."""
        return None
