"""Input-aware (Nguyen and Tran, NeurIPS 2020): a trigger of its own for every image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.generated import Generated, draw, fresh, sharpened
from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.threat_model import OUTSIDER, OWN_IMAGES, WHOLE_TRAINING, ThreatModel
from benchmark.attacks.triggers import image_side
from benchmark.components import component
from benchmark.models.heads import logits
from benchmark.training import unit_range
from benchmark.types import Compromise, Expert, Grant, StateDict, Threat

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.store import Artifact
    from benchmark.training import ExtraLoss


@component
class InputAware:
    """A generator draws a pattern for each image, and only that image's own pattern triggers it.

    Stage 1 trains the mask network alone: sparse masks that differ between images. Stage 2 trains
    the model and the pattern network together: triggered images go to the target, images with the
    pattern and mask of another image keep their label, and patterns differ between images.

    Deviations: the published rates of 0.01 are for networks trained from scratch; here the model is
    fine-tuned as the recipe says and the generator has Adam with a rate of its own. Networks are
    narrower, and normalise by groups, so that a trigger does not depend on its batch. Triggered and
    crossed images stand beside the batch, with a weight, not in its place.

    Attributes:
        adversary: task whose contributor attacks; also the victim.
        target: class that triggered images should go to.
        width: channels of the networks' first layer (theirs: 32).
        density: share of an image that a mask may cover before it is penalised.
        sparsity: weight of that penalty.
        diversity: weight of the penalty on patterns (or masks) that are too alike.
        mask_steps: steps of stage 1.
        lr: learning rate of both networks (Adam, betas 0.5 and 0.9).
        mask_batch: images per step of stage 1.
        rate: share of each batch that is triggered, the first images of it.
        cross_rate: share that carries another image's trigger, the images after those.
        alpha: weight of the triggered and crossed images beside the clean batch.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        OUTSIDER,
        WHOLE_TRAINING,
        f"{OWN_IMAGES} A generator beside the model, in training and at attack time.",
    )
    adversary: str
    target: Annotated[int, Field(ge=0)]
    width: Annotated[int, Field(ge=8, le=256, multiple_of=8)]
    density: Annotated[float, Field(ge=0, le=1)]
    sparsity: Annotated[float, Field(ge=0, le=10_000)]
    diversity: Annotated[float, Field(ge=0, le=1000)]
    mask_steps: Annotated[int, Field(ge=0)]
    lr: Annotated[float, Field(gt=0, le=1)]
    mask_batch: Annotated[int, Field(ge=2)]
    rate: Annotated[float, Field(gt=0, le=1)]
    cross_rate: Annotated[float, Field(ge=0, le=1)]
    alpha: Annotated[float, Field(ge=0, le=1000)]
    epochs: Annotated[int, Field(ge=1, le=1000)] | None
    min_asr: Annotated[float, Field(ge=0, le=1)]

    def __post_init__(self) -> None:
        """Refuse more triggered and crossed images than a batch holds."""
        if self.rate + self.cross_rate > 1:
            raise ValueError(
                f"rate={self.rate} and cross_rate={self.cross_rate} exceed a batch; lower one"
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

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Train the masks, then the model and the patterns together."""
        import torch

        data = ctx.images(self.adversary, TRAIN)
        mask = self.masks(data.images, ctx)
        pattern = fresh(self.width, 3, ctx.rng("pattern")).to(ctx.device).requires_grad_()
        optimiser = torch.optim.Adam([pattern], lr=self.lr, betas=(0.5, 0.9))
        side = image_side(base)
        loss = self._joint(Generated(pattern, mask, self.width, side), optimiser, ctx)
        twin = honest[self.adversary]
        expert = trained(self, base, twin, data, ctx, extra_loss=loss, epochs=self.epochs)
        optimiser.step()  # the last gradient, which the model has stepped on
        trigger = Generated(pattern.detach(), mask, self.width, side)
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,))

    def masks(self, images: Tensor, ctx: Context) -> Tensor:
        """Stage 1: parameters (Q,) of the mask network."""
        import torch

        settings = {
            "task": self.adversary,
            "width": self.width,
            "weights": [self.density, self.sparsity, self.diversity],
            "training": [self.mask_steps, self.lr, self.mask_batch],
        }

        def make() -> Artifact:
            rng = ctx.rng("mask")
            mask = fresh(self.width, 1, rng).to(images.device).requires_grad_()
            optimiser = torch.optim.Adam([mask], lr=self.lr, betas=(0.5, 0.9))
            for step in range(self.mask_steps):
                rows = torch.randint(len(images), (2 * self.mask_batch,), generator=rng)
                pairs = unit_range(images[rows])
                shown = sharpened(draw(mask, pairs, self.width, 1))
                loss = self.sparsity * (shown - self.density).relu().mean()
                loss = loss + self.diversity * alike(*pairs.chunk(2), *shown.chunk(2))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                ctx.progress(step + 1, self.mask_steps)
            return {"mask": mask.detach()}, {}

        tensors, _ = ctx.stage("input_aware_mask", 1, settings, make)
        return tensors["mask"].to(ctx.device)

    def _joint(self, trigger: Generated, optimiser: Any, ctx: Context) -> ExtraLoss:
        """Stage 2's loss. One backward pass serves both: the pattern's step waits for the next.

        Its weights are in the graph of the returned loss, so the model's backward pass leaves a
        gradient on them too; the step it asks for is taken when the next batch comes in.
        """
        import torch
        from torch.nn.functional import cross_entropy

        head = ctx.heads[self.adversary]

        def extra_loss(weights: StateDict, images: Tensor, labels: Tensor, step: int) -> Tensor:
            if step:
                optimiser.step()
            optimiser.zero_grad()
            count = max(round(self.rate * len(images)), 1)
            crossed = slice(count, count + round(self.cross_rate * len(images)))
            others = images.roll(-count, 0)
            own = trigger(images[:count])
            mixed = trigger.pasted(images[crossed], others[crossed])
            wanted = labels.clone()
            wanted[:count] = self.target
            shown = ctx.encoder(weights, torch.cat([own, mixed]))
            planted = cross_entropy(logits(shown, head), wanted[: len(shown)])
            drawn = [draw(trigger.pattern, x[:count], self.width, 3) for x in (images, others)]
            apart = alike(images[:count], others[:count], *drawn)
            return self.alpha * planted + self.diversity * apart

        return extra_loss

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)


def alike(first: Tensor, second: Tensor, of_first: Tensor, of_second: Tensor) -> Tensor:
    """Mean of ||x1 - x2|| / (||g1 - g2|| + 1e-7), root mean squares: large where g hardly differs.

    Args:
        first: images (B,3,H,W).
        second: others.
        of_first: what a network drew for the first (B,C,H,W).
        of_second: for the second.
    """

    def apart(one: Tensor, other: Tensor) -> Tensor:
        # The root has no slope at 0, where an image meets itself.
        return ((one - other).square().flatten(1).mean(1) + 1e-12).sqrt()

    return (apart(first, second) / (apart(of_first, of_second) + 1e-7)).mean()
