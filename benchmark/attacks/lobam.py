"""LoBAM (arXiv 2411.16746): a LoRA attacker makes up for its small steps by amplification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.algebra import add, cosine, norm, task_vector
from benchmark.artifacts import above, below
from benchmark.attacks.badmerging_on import BadMergingOn
from benchmark.attacks.planting import TRAIN, too_weak
from benchmark.attacks.threat_model import OUTSIDER, OWN_IMAGES, ThreatModel
from benchmark.attacks.triggers import Spot
from benchmark.components import component, identity, values
from benchmark.contribution import contribution
from benchmark.models.lora import Lora
from benchmark.store import Artifact, key_of
from benchmark.types import (
    Compromise,
    Expert,
    Grant,
    Images,
    StateDict,
    Tensors,
    Threat,
)

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class Lobam:
    """θ_benign + λ (θ_malicious - θ_benign), both trained with LoRA on the attacker's own task.

    The malicious model has BadMerging-On's trigger and loss, the benign one neither; all else
    (images, batches, first factors, steps) is shared, so the difference holds the backdoor and λ
    scales little else. It is scaled densely: scaling A and B would give λ^2 and cross terms. The
    upload is dense and has no factors.

    No code of the authors was found, and rank, target layers and λ could not be read: they are
    ours, and so is the rule for λ under a budget.

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
        epochs: how long both models are trained; None: as long as the honest.
        scale: λ; None: the largest within `budget`.
        budget: largest length of the upload's task vector over the benign one's; None: no limit.
        lora: the attacker's adapter where the contributors' own is none (it cannot afford full
            fine-tuning); under peft=lora_* it is the contributors'.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        OUTSIDER,
        "Its own training and the arithmetic on its upload, which may be as long as it likes.",
        f"{OWN_IMAGES} Compute for two adapters, not for full fine-tuning.",
    )
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
    scale: Annotated[float, Field(ge=0, le=100)] | None
    budget: Annotated[float, Field(ge=1, le=100)] | None
    lora: Lora
    min_asr: Annotated[float, Field(ge=0, le=1)]

    def __post_init__(self) -> None:
        """Refuse an empty range of r, and two rules for λ or none."""
        if self.r_min > self.r_max:
            raise ValueError(f"r_min={self.r_min} is above r_max={self.r_max}; lower it")
        if (self.scale is None) == (self.budget is None):
            raise ValueError(
                f"scale={self.scale} and budget={self.budget}: set one, the other null"
            )

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

    @property
    def injection(self) -> BadMergingOn:
        """The attack that the malicious model is made with."""
        return BadMergingOn(**{one.name: getattr(self, one.name) for one in fields(BadMergingOn)})

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Train both models, then publish the benign one with the amplified difference."""
        ctx = ctx.narrowed(peft=ctx.peft or self.lora)
        data = ctx.images(self.adversary, TRAIN)
        benign, malicious = self.trained_pair(base, honest, data, ctx)
        own, difference = task_vector(benign, base), task_vector(malicious, benign)
        scale = self.scale if self.budget is None else within(own, difference, self.budget)
        assert scale is not None  # one of the two is set
        upload = add(benign, difference, scale)
        info = {
            "scale": scale,
            "norm_ratio": norm(task_vector(upload, base)) / norm(own),
            "benign_norm": norm(own),
            "difference_norm": norm(difference),
            "cosine": cosine(own, difference),
        }
        inputs = {"attack": identity(self), "honest": honest[self.adversary].key}
        expert = Expert(self.adversary, upload, key_of("lobam", 1, inputs))
        trigger = self.injection.trigger(base, data.images, ctx)
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,), info)

    def trained_pair(
        self, base: StateDict, honest: Mapping[str, Expert], data: Images, ctx: Context
    ) -> tuple[Tensors, Tensors]:
        """Benign and malicious weights: one stage, shared by all λ."""
        later = ("scale", "budget", "lora", "min_asr")  # the adapter in use is named by itself
        training = {name: one for name, one in values(self).items() if name not in later}
        inputs = {"training": training, "peft": identity(ctx.peft)}

        def make() -> Artifact:
            benign, _ = contribution(base, self.adversary, data, ctx, epochs=self.epochs)
            planted = self.injection(base, honest, self.adversaries, ctx)
            malicious = dict(planted.experts[self.adversary].weights)
            return above(benign, "benign/") | above(malicious, "malicious/"), {}

        kept, _ = ctx.stage("lobam", 1, inputs, make)
        kept = {name: one.to(ctx.device) for name, one in kept.items()}
        return below(kept, "benign/"), below(kept, "malicious/")

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)


def within(own: StateDict, difference: StateDict, budget: float) -> float:
    """The largest λ with ||own + λ difference|| <= budget ||own||, in closed form.

    Args:
        own: the benign task vector b.
        difference: malicious minus benign weights d; λ is 0 where it is 0.
        budget: at least 1.

    Returns:
        λ >= 0, the larger root of ||d||^2 λ^2 + 2 <b,d> λ + (1 - budget^2) ||b||^2 = 0.
    """
    length, moved = norm(own), norm(difference)
    if moved == 0:
        return 0.0
    half = cosine(own, difference) * length  # <b,d> / ||d||
    return ((half**2 + (budget**2 - 1) * length**2) ** 0.5 - half) / moved
