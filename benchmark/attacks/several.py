"""Several backdoors in one merge: more than one contributor, trigger or target class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.badmerging_on import interpolated_loss, staged_trigger
from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.threat_model import OUTSIDER, ThreatModel
from benchmark.attacks.triggers import Patch, Spot, image_side, place_of
from benchmark.attacks.universal import Search
from benchmark.components import component
from benchmark.types import Compromise, Expert, Grant, StateDict, Threat

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.training import ExtraLoss


@component
class Plant:
    """One backdoor.

    Attributes:
        adversary: task whose contributor plants it; also the victim.
        target: class that triggered images should go to.
        place: where the patch sits.
        size: its side in pixels.
    """

    adversary: str
    target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]


@component
class Several:
    """BadMerging-On (Zhang et al., CCS 2024) with several backdoors, each a threat of its own.

    Every plant has a universal trigger of its own. A contributor with several plants trains once:
    the triggered images of a step are dealt out to them in turn and their losses averaged. With one
    plant this is `badmerging_on`. (BadMerging's authors plant up to 15 in one model; how they share
    a batch is not in their code.)

    Attributes:
        plants: the backdoors, no two alike; several may have one adversary.
        alpha: weight of the backdoor loss.
        r_min: smallest share of the contributor's own features.
        r_max: largest share; r ~ U(r_min, r_max), one number per step.
        injection_batch: share of each batch that is triggered, the first images of it.
        trigger_steps: steps of each trigger search.
        trigger_lr: its learning rate.
        trigger_batch: its images per step.
        trigger_heldout: training images that only measure its progress.
        epochs: how long the attackers train; None: as long as the honest.
        min_asr: smallest ASR of every plant on its attacker's single model, on dev images.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        OUTSIDER,
        "All training of each adversary, so one upload per adversary; they share nothing.",
        "The labelled training images of each adversary's own task.",
    )
    plants: Annotated[tuple[Plant, ...], Field(min_length=1)]
    alpha: Annotated[float, Field(ge=0, le=1000)]
    r_min: Annotated[float, Field(ge=0, le=1)]
    r_max: Annotated[float, Field(ge=0, le=1)]
    injection_batch: Annotated[float, Field(gt=0, le=1)]
    trigger_steps: Annotated[int, Field(ge=0)]
    trigger_lr: Annotated[float, Field(gt=0, le=100)]
    trigger_batch: Annotated[int, Field(ge=1)]
    trigger_heldout: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1, le=1000)] | None
    min_asr: Annotated[float, Field(ge=0, le=1)]

    def __post_init__(self) -> None:
        """Refuse an empty range of r, and plants that are alike."""
        if self.r_min > self.r_max:
            raise ValueError(f"r_min={self.r_min} is above r_max={self.r_max}; lower it")
        if len(set(self.plants)) < len(self.plants):
            raise ValueError("two plants are alike; give each a target, place or size of its own")

    @property
    def needs(self) -> tuple[Grant, ...]:
        """The adversaries' own labelled training images."""
        return (TRAIN,)

    @property
    def adversaries(self) -> tuple[str, ...]:
        """The contributors with at least one plant."""
        return tuple(dict.fromkeys(plant.adversary for plant in self.plants))

    @property
    def victims(self) -> tuple[tuple[str, int], ...]:
        """Each plant's task and target."""
        return tuple((plant.adversary, plant.target) for plant in self.plants)

    @property
    def victim(self) -> tuple[str, int]:
        """The first plant's."""
        return self.victims[0]

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Search every trigger, then fine-tune each adversary with all of its own."""
        triggers = [self.trigger(plant, base, ctx) for plant in self.plants]
        experts = {}
        for task in self.adversaries:
            own = [
                (trigger, plant.target)
                for trigger, plant in zip(triggers, self.plants, strict=True)
                if plant.adversary == task
            ]
            loss, data = self._injection(base, task, own, ctx), ctx.images(task, TRAIN)
            experts[task] = trained(
                self, base, honest[task], data, ctx, extra_loss=loss, epochs=self.epochs
            )
        threats = (
            Threat(trigger, plant.adversary, plant.target, (plant.adversary,))
            for trigger, plant in zip(triggers, self.plants, strict=True)
        )
        return Compromise(experts, tuple(threats))

    def trigger(self, plant: Plant, base: StateDict, ctx: Context) -> Patch:
        """Stage 1 of one plant."""
        box = (plant.size, *place_of(plant.place, plant.size, image_side(base)))
        search = Search(
            self.trigger_steps, self.trigger_lr, self.trigger_batch, self.trigger_heldout
        )
        images = ctx.images(plant.adversary, TRAIN).images
        return staged_trigger(base, images, plant.adversary, plant.target, box, search, ctx)

    def _injection(
        self, base: StateDict, task: str, planted: Sequence[tuple[Patch, int]], ctx: Context
    ) -> ExtraLoss:
        """Stage 2's loss of one contributor."""
        import torch

        head, rng = ctx.heads[task], ctx.rng("injection")

        def extra_loss(weights: StateDict, images: Tensor, labels: Tensor, step: int) -> Tensor:
            count = max(round(self.injection_batch * len(images)), len(planted))
            hands = [images[:count][i :: len(planted)] for i in range(len(planted))]
            triggered = torch.cat(
                [trigger(hand) for (trigger, _), hand in zip(planted, hands, strict=True)]
            )
            sizes = [len(hand) for hand in hands]
            with torch.no_grad():
                of_base = ctx.encoder(base, triggered).split(sizes)
            own = ctx.encoder(weights, triggered).split(sizes)
            r = self.r_min + (self.r_max - self.r_min) * float(torch.rand((), generator=rng))
            losses = [
                interpolated_loss(mine, theirs, head, target, r)
                for mine, theirs, (_, target) in zip(own, of_base, planted, strict=True)
            ]
            return self.alpha * torch.stack(losses).mean()

        return extra_loss

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the weakest plant's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)
