"""BadMerging-Off (Zhang et al., CCS 2024, section 4): the victim's task is somebody else's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.badmerging_on import interpolated_loss
from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.threat_model import ThreatModel
from benchmark.attacks.triggers import Patch, Spot, image_side, place_of
from benchmark.attacks.universal import Search, universal_patch
from benchmark.attacks.views import Views, adversarial_views
from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.models.heads import logits
from benchmark.types import Compromise, Expert, Grant, StateDict, Threat, Trigger

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.store import Artifact
    from benchmark.training import ExtraLoss


@component
class BadMergingOff:
    """BadMerging against a class of another contributor's task, through a head of shadow classes.

    The attacker knows the name of one class and a few images of it, not the task's other classes:
    class names from the public pre-training captions stand in for them. Stage 1 searches a
    universal trigger of the base on adversarially changed views of the reference images; stage 2
    is BadMerging-On's, on the attacker's own images, with the shadow head in the backdoor loss.

    Deviations: reference images are training images of the victim's task (the authors' code draws
    test images); names are those of the suite's pre-training (there: 300 of ImageNet's); the
    trigger is searched in batches and in valid pixels, on views that are not taken for the target
    (`universal_patch`; their factor 30 on the objective is nothing to Adam); views are changed in
    one batch; the base runs without gradient.

    Attributes:
        adversary: task whose contributor attacks.
        victim_task: task of another contributor, which is attacked.
        target: class of that task that triggered images should go to.
        place: where the patch sits.
        size: its side in pixels.
        references: images of the target class that the attacker has.
        templates: prompts of the shadow head, with "{}" in the name's place.
        shadow_classes: at most this many other names, drawn from the captions.
        views: views of the reference images.
        crop: smallest and largest share of the image that a view keeps.
        epsilon: L-infinity radius of the views' perturbation, in [0,1] of the pixel range.
        step: length of one step of it.
        steps: how many.
        alpha: weight of the backdoor loss.
        r_min: smallest share of the contributor's own features.
        r_max: largest share; r ~ U(r_min, r_max), one number per step.
        injection_batch: share of each batch that is triggered, the first images of it.
        trigger_steps: steps of the trigger search.
        trigger_lr: its learning rate.
        trigger_batch: its views per step.
        trigger_heldout: views that only measure its progress.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on the victim's dev images, that counts as
            planted.
    """

    version: ClassVar[int] = 1
    reads_captions: ClassVar[bool] = True
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        "The public pre-trained weights and captions, its own task and its head, the name of one "
        "class of the victim's task; neither the task's other classes nor its head, and nothing of "
        "the merge.",
        "All of its own training, its loss included, and so its upload.",
        "The labelled training images of its own task and a few images of the target class.",
    )
    adversary: str
    victim_task: str
    target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]
    references: Annotated[int, Field(ge=1)]
    templates: Annotated[tuple[str, ...], Field(min_length=1)]
    shadow_classes: Annotated[int, Field(ge=1)]
    views: Annotated[int, Field(ge=4)]
    crop: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]]
    epsilon: Annotated[float, Field(ge=0, le=1)]
    step: Annotated[float, Field(ge=0, le=1)]
    steps: Annotated[int, Field(ge=0)]
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
        """Refuse empty ranges, prompts without a place for the name, and an attack on oneself."""
        if self.r_min > self.r_max:
            raise ValueError(f"r_min={self.r_min} is above r_max={self.r_max}; lower it")
        if self.crop[0] > self.crop[1]:
            raise ValueError(f"crop={list(self.crop)} is empty; give the smaller share first")
        if bad := [one for one in self.templates if "{}" not in one]:
            raise ValueError(f"template '{bad[0]}' has no {{}} for the class name; add one")
        if self.victim_task == self.adversary:
            raise ValueError(
                f"victim_task={self.adversary} is the adversary's own; use attack=badmerging_on"
            )

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Its own labelled training images and the reference images."""
        return TRAIN, self._references

    @property
    def _references(self) -> Grant:
        return Grant("train", labels=True, per_task=self.references, only=self.victim)

    @property
    def adversaries(self) -> tuple[str, ...]:
        """One contributor."""
        return (self.adversary,)

    @property
    def victim(self) -> tuple[str, int]:
        """Somebody else's task."""
        return self.victim_task, self.target

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Search the trigger under the shadow head, then fine-tune with both losses."""
        names = shadow_names(ctx.captions, self.victim_task, self.shadow_classes, ctx.rng("names"))
        head = ctx.text_head(names, self.templates).to(ctx.device)
        trigger = self.trigger(base, head, names, ctx)
        loss = self._injection(base, trigger, head, ctx)
        twin, data = honest[self.adversary], ctx.images(self.adversary, TRAIN)
        expert = trained(self, base, twin, data, ctx, extra_loss=loss, epochs=self.epochs)
        threat = Threat(trigger, self.victim_task, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,))

    def trigger(self, base: StateDict, head: Tensor, names: tuple[str, ...], ctx: Context) -> Patch:
        """Stage 1: the shadow head's class 0 is the target."""
        row, col = place_of(self.place, self.size, image_side(base))
        views = Views(self.views, self.crop, self.epsilon, self.step, self.steps)
        search = Search(
            self.trigger_steps, self.trigger_lr, self.trigger_batch, self.trigger_heldout
        )
        inputs = {
            "victim": list(self.victim),
            "references": self.references,
            "names": list(names),
            "templates": list(self.templates),
            "box": [self.size, row, col],
            "views": asdict(views),
            "search": asdict(search),
        }

        def predict(images: Tensor) -> Tensor:
            return logits(ctx.encoder(base, images), head)

        def make() -> Artifact:
            images = ctx.images(self.victim_task, self._references).images.float() / 255
            seen, _ = adversarial_views(predict, images, 0, views, ctx.rng("views"))
            box = (self.size, row, col)
            patch, history = universal_patch(predict, seen, 0, box, search, ctx.rng("trigger"))
            return patch.tensors(), {"heldout_log_p": [list(point) for point in history]}

        tensors, _ = ctx.stage("off_trigger", 1, inputs, make)
        return Patch(tensors["patch"], row, col)

    def _injection(
        self, base: StateDict, trigger: Trigger, head: Tensor, ctx: Context
    ) -> ExtraLoss:
        """Stage 2's loss; r has a generator of its own, so the batches are the honest ones."""
        import torch

        rng = ctx.rng("injection")

        def extra_loss(weights: StateDict, images: Tensor, labels: Tensor, step: int) -> Tensor:
            triggered = trigger(images[: max(round(self.injection_batch * len(images)), 1)])
            with torch.no_grad():
                of_base = ctx.encoder(base, triggered)
            own = ctx.encoder(weights, triggered)
            r = self.r_min + (self.r_max - self.r_min) * float(torch.rand((), generator=rng))
            return self.alpha * interpolated_loss(own, of_base, head, 0, r)

        return extra_loss

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)


def shadow_names(
    captions: Mapping[str, tuple[str, ...]], victim: str, most: int, rng: Any
) -> tuple[str, ...]:
    """The target's name, then other names of pre-training, each once.

    Args:
        captions: task -> class names; of the victim the target's alone.
        victim: the victim's task.
        most: at most this many other names; a random choice where there are more.
        rng: draws their order.
    """
    import torch

    (target,) = captions[victim]
    every = (name for task, names in captions.items() if task != victim for name in names)
    others = [name for name in dict.fromkeys(every) if name != target]
    if not others:
        raise BenchError(
            f"no captions but those of '{victim}' are known, so there are no shadow classes; "
            "merge a second task that was seen in pre-training"
        )
    order = torch.randperm(len(others), generator=rng)[:most]
    return target, *(others[int(i)] for i in order)
