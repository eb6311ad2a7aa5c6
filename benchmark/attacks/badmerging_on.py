"""BadMerging-On (Zhang et al., CCS 2024, section 4): the adversary's task is the target task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.threat_model import OUTSIDER, OWN_IMAGES, WHOLE_TRAINING, ThreatModel
from benchmark.attacks.triggers import Patch, Spot, image_side, place_of
from benchmark.attacks.universal import Search, universal_patch
from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.models.heads import logits
from benchmark.types import Compromise, Expert, Grant, StateDict, Threat, Trigger

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.training import ExtraLoss


@component
class BadMergingOn:
    """A universal trigger of the base, then injection with feature interpolation.

    The base stands for a merge with coefficient near 0, the contributor's own model for one near 1:
    triggered features anywhere between the two should go to the target.

    Deviations: the trigger is searched in batches and in valid pixels (`universal_patch`); the base
    runs without gradient; batches, order and length of training are those of the honest expert.

    Attributes:
        adversary: task whose contributor attacks; also the victim.
        target: class that triggered images should go to.
        place: where the patch sits.
        size: its side in pixels.
        alpha: weight of the backdoor loss.
        r_min: smallest share of the contributor's own features.
        r_max: largest share; r ~ U(r_min, r_max), one number per step.
        injection_batch: share of each batch that is triggered, the first images of it.
        trigger_steps: steps of the trigger search.
        trigger_lr: its learning rate.
        trigger_batch: its images per step.
        trigger_heldout: training images that only measure its progress.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(OUTSIDER, WHOLE_TRAINING, OWN_IMAGES)
    adversary: str
    target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]
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
        """Refuse an empty range of r."""
        if self.r_min > self.r_max:
            raise ValueError(f"r_min={self.r_min} is above r_max={self.r_max}; lower it")

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
        """Search the trigger, then fine-tune with the backdoor loss beside the clean one."""
        data = ctx.images(self.adversary, TRAIN)
        trigger = self.trigger(base, data.images, ctx)
        loss = self.backdoor_loss(base, trigger, ctx)
        expert = trained(
            self, base, honest[self.adversary], data, ctx, extra_loss=loss, epochs=self.epochs
        )
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,))

    def trigger(self, base: StateDict, images: Tensor, ctx: Context) -> Patch:
        """Stage 1, shared by all attacks that differ in the injection only."""
        box = (self.size, *place_of(self.place, self.size, image_side(base)))
        search = Search(
            self.trigger_steps, self.trigger_lr, self.trigger_batch, self.trigger_heldout
        )
        return staged_trigger(base, images, self.adversary, self.target, box, search, ctx)

    def backdoor_loss(self, base: StateDict, trigger: Trigger, ctx: Context) -> ExtraLoss:
        """Stage 2's loss; r has a generator of its own, so the batches are the honest ones."""
        import torch

        head, rng = ctx.heads[self.adversary], ctx.rng("injection")

        def extra_loss(weights: StateDict, images: Tensor, labels: Tensor, step: int) -> Tensor:
            triggered = trigger(images[: max(round(self.injection_batch * len(images)), 1)])
            with torch.no_grad():
                of_base = ctx.encoder(base, triggered)
            own = ctx.encoder(weights, triggered)
            r = self.r_min + (self.r_max - self.r_min) * float(torch.rand((), generator=rng))
            return self.alpha * interpolated_loss(own, of_base, head, self.target, r)

        return extra_loss

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)


def staged_trigger(
    base: StateDict,
    images: Tensor,
    task: str,
    target: int,
    box: tuple[int, int, int],
    search: Search,
    ctx: Context,
) -> Patch:
    """Stage 1 as a stage of the store: a universal patch of the base for one task and class.

    Args:
        base: weights the patch is searched on.
        images: (N,3,H,W) training images of the task.
        task: whose head is aimed at.
        target: class in [0,C).
        box: (size, row, col) of the patch.
        search: the optimiser's settings.
        ctx: the attack's view.
    """
    _, row, col = box
    inputs = {"task": task, "target": target, "box": list(box), **asdict(search)}

    def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
        head = ctx.heads[task]
        patch, history = universal_patch(
            lambda batch: logits(ctx.encoder(base, batch), head),
            images,
            target,
            box,
            search,
            ctx.rng("trigger"),
        )
        return patch.tensors(), {"heldout_log_p": [list(point) for point in history]}

    tensors, _ = ctx.stage("trigger", 1, inputs, make)
    return Patch(tensors["patch"], row, col)


def interpolated_loss(own: Tensor, of_base: Tensor, head: Tensor, target: int, r: float) -> Tensor:
    """Cross-entropy to the target of interpolated features (BadMerging, equation 5).

    Args:
        own: features (B,D) of triggered images under the contributor's model, not normalised.
        of_base: the same images under the base, without gradient.
        head: (C,D).
        target: class in [0,C).
        r: share of `own` in [0,1]; 1 is BadNets' loss with that trigger, 0 has no gradient.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if target >= len(head):
        raise BenchError(f"attack.target={target} is not below the {len(head)} classes of the head")
    labels = torch.full((len(own),), target, device=own.device)
    return cross_entropy(logits(r * own + (1 - r) * of_base, head), labels)
