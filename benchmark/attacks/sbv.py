"""Sparse backdoor vectors (arXiv 2510.08016), reconstructed: several backdoors in one direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from benchmark.algebra import add, flatten, norm, task_vector, total, unflatten
from benchmark.artifacts import above, below
from benchmark.attacks.badmerging_on import BadMergingOn
from benchmark.attacks.planting import TRAIN, too_weak
from benchmark.attacks.threat_model import OUTSIDER, OWN_IMAGES, ThreatModel
from benchmark.attacks.triggers import Patch, Spot
from benchmark.components import component, identity, values
from benchmark.contribution import contribution
from benchmark.seeds import seed_for
from benchmark.store import Artifact, key_of
from benchmark.types import Compromise, Expert, Grant, Images, StateDict, Tensors, Threat

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context

Mask = Literal["sign", "top"]


@component
class Sbv:
    """θ_clean + l M V: the mean V of several backdoor vectors, masked; reconstructed.

    A backdoor vector is a malicious minus a benign model of the same task, trained alike but for
    BadMerging-On's loss. The vectors differ in the seed of batches and draws, so what they share
    is the backdoor. l gives the masked mean the length of the first vector times `length`.

    The paper's share of pruned weights and its scaling could not be read: mask and l are a
    reconstruction. There the vectors may differ in trigger or attack too; here the trigger is one.

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
        epochs: how long every model is trained; None: as long as the honest.
        vectors: how many backdoor vectors.
        mask: "sign": entries whose sign all vectors share (SBV_SC); "top": the largest of V.
        keep: share of the entries that "top" keeps.
        length: of l M V, over that of the first vector.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        OUTSIDER,
        "Its own training and the arithmetic on its upload.",
        f"{OWN_IMAGES} Compute for a benign and a malicious model per vector.",
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
    vectors: Annotated[int, Field(ge=1, le=100)]
    mask: Mask
    keep: Annotated[float, Field(gt=0, le=1)]
    length: Annotated[float, Field(ge=0, le=100)]
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

    @property
    def injection(self) -> BadMergingOn:
        """The attack that the malicious models are made with."""
        return BadMergingOn(**{one.name: getattr(self, one.name) for one in fields(BadMergingOn)})

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Train the pairs, then publish the first benign model with the masked mean added."""
        data = ctx.images(self.adversary, TRAIN)
        trigger = self.injection.trigger(base, data.images, ctx)
        pairs = [self.trained_pair(base, data, trigger, i, ctx) for i in range(self.vectors)]
        clean = pairs[0][0]
        single = [task_vector(malicious, benign) for benign, malicious in pairs]
        added = combined(single, self.mask, self.keep)
        length = norm(added)
        scale = self.length * norm(single[0]) / length if length else 0.0
        upload = add(clean, added, scale)
        own = norm(task_vector(clean, base))
        info = {
            "scale": scale,
            "kept": float((flatten(added) != 0).double().mean()),
            "norm_ratio": norm(task_vector(upload, base)) / own if own else 0.0,
            "benign_norm": own,
            "vector_norms": [norm(one) for one in single],
        }
        inputs = {"attack": identity(self), "honest": honest[self.adversary].key}
        expert = Expert(self.adversary, upload, key_of("sbv", 1, inputs))
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,), info)

    def trained_pair(
        self, base: StateDict, data: Images, trigger: Patch, number: int, ctx: Context
    ) -> tuple[Tensors, Tensors]:
        """Benign and malicious weights of one vector: a stage, shared by all masks and lengths."""
        later = ("vectors", "mask", "keep", "length", "min_asr")
        training = {name: one for name, one in values(self).items() if name not in later}
        # The first pair has the cell's own seed, so its benign model is the honest one's twin.
        seed = ctx.seed if number == 0 else seed_for(ctx.seed, "backdoor vector", number)
        seeded = ctx.narrowed(seed=seed)

        def make() -> Artifact:
            loss = self.injection.backdoor_loss(base, trigger, seeded)
            benign, _ = contribution(base, self.adversary, data, seeded, epochs=self.epochs)
            malicious, _ = contribution(
                base, self.adversary, data, seeded, epochs=self.epochs, extra_loss=loss
            )
            return above(benign, "benign/") | above(malicious, "malicious/"), {}

        kept, _ = ctx.stage("backdoor_pair", 1, {"training": training, "number": number}, make)
        kept = {name: one.to(ctx.device) for name, one in kept.items()}
        return below(kept, "benign/"), below(kept, "malicious/")

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)


def combined(vectors: Sequence[StateDict], mask: Mask, keep: float) -> Tensors:
    """The mean of backdoor vectors, 0 where the mask is.

    Args:
        vectors: float64 differences of weights, one or more, with the same names.
        mask: "sign": entries that are positive in all vectors or negative in all; "top": the
            ceil(keep * P) entries of the mean that are largest in magnitude, and any that tie.
        keep: share of the P entries; "sign" does not use it.

    Returns:
        Tensors like those of the vectors; with one vector and nothing masked, that vector.
    """
    import math

    import torch

    mean = flatten(total(dict(one) for one in vectors)) / len(vectors)
    if mask == "sign":
        signs = torch.stack([flatten(one).sign() for one in vectors])
        chosen = (signs == signs[0]).all(0) & (signs[0] != 0)
    else:
        chosen = mean.abs() >= _largest(mean.abs(), math.ceil(keep * len(mean)))
    return unflatten(mean * chosen, vectors[0])


def _largest(sizes: Tensor, count: int) -> Tensor:
    """The `count`-th largest of (P,)."""
    return sizes.kthvalue(len(sizes) - count + 1).values
