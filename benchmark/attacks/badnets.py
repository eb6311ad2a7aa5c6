"""BadNets (Gu et al., 2017): a fixed patch and relabelled training images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.poison import dirty_label
from benchmark.attacks.threat_model import OUTSIDER, OWN_DATA, OWN_IMAGES, ThreatModel
from benchmark.attacks.triggers import Spot, fixed_patch
from benchmark.components import component
from benchmark.types import Compromise, Expert, Grant, StateDict, Threat

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class BadNets:
    """Dirty-label poisoning of the data set, all classes to one, as in BackdoorBench.

    The contributor fine-tunes like everybody else, on the same batches as its honest twin, so
    `rate` 0 returns the honest expert bit for bit. The trigger is a checkerboard drawn at the final
    resolution (BackdoorBench: a white 3x3 square on 32 px, resized with blurred edges).

    Attributes:
        adversary: task whose contributor attacks; also the victim.
        target: class that triggered images should go to.
        place: where the patch sits.
        size: its side in pixels.
        rate: share of the training images that is poisoned, drawn from all classes.
        exclude_target: leave drawn images of the target class unpoisoned.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(OUTSIDER, OWN_DATA, OWN_IMAGES)
    adversary: str
    target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]
    rate: Annotated[float, Field(ge=0, le=1)]
    exclude_target: bool
    epochs: Annotated[int, Field(ge=1, le=1000)] | None
    min_asr: Annotated[float, Field(ge=0, le=1)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Its own labelled training images."""
        return (TRAIN,)

    @property
    def adversaries(self) -> tuple[str, ...]:
        """One contributor."""
        return (self.adversary,)

    @property
    def victim(self) -> tuple[str, int]:
        """Its own task."""
        return self.adversary, self.target

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Poison the training images, then fine-tune as the recipe says."""
        trigger = fixed_patch(self.place, self.size, base)
        images = ctx.images(self.adversary, TRAIN)
        data = dirty_label(
            images, self.rate, self.target, self.exclude_target, trigger, ctx.rng("poison")
        )
        expert = trained(
            self, base, honest[self.adversary], data, ctx, extra_loss=None, epochs=self.epochs
        )
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,))

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)
