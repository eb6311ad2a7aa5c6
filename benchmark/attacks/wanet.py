"""WaNet (Nguyen and Tran, ICLR 2021): the trigger is a smooth warping of the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.poison import poisoned, poisoned_rows
from benchmark.attacks.threat_model import OUTSIDER, OWN_DATA, OWN_IMAGES, ThreatModel
from benchmark.components import component
from benchmark.types import Compromise, Expert, Grant, Images, StateDict, Tensors, Threat

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmark.context import Context

SIDE = 32
"""The image side in pixels that WaNet's strength was given for."""


@dataclass(frozen=True, eq=False)
class Warp:
    """B(x)(u) = x(clamp(u + s phi(u) / 32)), u in [-1,1]^2, phi a smooth random field.

    The authors' displacement is s phi / H, so about 0.3 px at every side H. Here it is a fixed
    share of the side, theirs at 32 px: on images of side H their s would be s H / 32.

    Attributes:
        control: (2,k,k), phi's values (across, down) at control points; the mean magnitude is 1.
        strength: s.
        jitter: (B,2,H,W) in [-1,1], one field per image, added as jitter / 32; None: none. It
            belongs to one batch of images, so it is not part of the artifact.
    """

    control: Tensor
    strength: float
    jitter: Tensor | None = None

    def field(self, height: int, width: int) -> Tensor:
        """The displacement (2,H,W) in units of half the image's side, before clamping."""
        from torch.nn.functional import interpolate

        smooth = interpolate(
            self.control[None], size=(height, width), mode="bicubic", align_corners=True
        )
        return self.strength / SIDE * smooth[0]

    def __call__(self, images: Tensor) -> Tensor:
        """Warp images (B,3,H,W) in [0,1]; bilinear, so no pixel leaves its image's range."""
        import torch
        from torch.nn.functional import grid_sample

        height, width = images.shape[-2:]
        down, across = (torch.linspace(-1, 1, size) for size in (height, width))
        still = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1])
        moved = (still.to(self.control) + self.field(height, width)).expand(len(images), -1, -1, -1)
        if self.jitter is not None:
            moved = moved + self.jitter.to(moved) / SIDE
        grid = moved.clamp(-1, 1).permute(0, 2, 3, 1).to(images)
        warped = grid_sample(images, grid, mode="bilinear", align_corners=True)
        low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
        return warped.clamp(low, high)  # interpolation may round beyond

    def shuffled(self, rng: Generator) -> Warp:
        """The same displacements at permuted control points."""
        import torch

        flat = self.control.flatten(1)
        order = torch.randperm(flat.shape[1], generator=rng).to(flat.device)
        return Warp(flat[:, order].view_as(self.control), self.strength)

    def tensors(self) -> Tensors:
        """The values at the control points."""
        return {"control": self.control}

    def settings(self) -> dict[str, Any]:
        """How far they go."""
        return {"strength": self.strength}


def control_points(points: int, rng: Generator) -> Tensor:
    """(2,k,k) uniform in [-1,1], divided by the mean magnitude."""
    import torch

    drawn = torch.rand(2, points, points, generator=rng) * 2 - 1
    return drawn / drawn.abs().mean()


@component
class WaNet:
    """Dirty-label poisoning with a warped image; wrongly warped images keep their labels.

    The second kind ("noise mode") teaches that this field triggers, not warping as such.

    Deviations: displacement is relative to the image's side (see `Warp`); poisoned images are
    drawn once, not anew in every batch; the honest recipe's images are neither cropped nor rotated.

    Attributes:
        adversary: task whose contributor attacks; also the victim.
        target: class that triggered images should go to.
        points: control points a side.
        strength: s; the mean displacement is about 1.8 s per cent of the image's side.
        rate: share of the training images that is poisoned, drawn from all classes.
        cross: images in noise mode for each poisoned one; they are others.
        exclude_target: leave drawn images of the target class unpoisoned.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(OUTSIDER, OWN_DATA, OWN_IMAGES)
    adversary: str
    target: Annotated[int, Field(ge=0)]
    points: Annotated[int, Field(ge=2, le=64)]
    strength: Annotated[float, Field(gt=0, le=32)]
    rate: Annotated[float, Field(ge=0, le=1)]
    cross: Annotated[float, Field(ge=0, le=10)]
    exclude_target: bool
    epochs: Annotated[int, Field(ge=1, le=1000)] | None
    min_asr: Annotated[float, Field(ge=0, le=1)]

    def __post_init__(self) -> None:
        """Refuse more poisoned and crossed images than there are."""
        if self.rate * (1 + self.cross) > 1:
            raise ValueError(
                f"rate={self.rate} and cross={self.cross} ask for more than all images; lower one"
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
        """Poison the training images, then fine-tune as the recipe says."""
        trigger = Warp(control_points(self.points, ctx.rng("field")), self.strength)
        data = self.poison(ctx.images(self.adversary, TRAIN), trigger, ctx)
        expert = trained(
            self, base, honest[self.adversary], data, ctx, extra_loss=None, epochs=self.epochs
        )
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,))

    def poison(self, images: Images, trigger: Warp, ctx: Context) -> Images:
        """Some images warped and relabelled, others warped with jitter under their own label."""
        import torch

        assert images.labels is not None  # granted with labels
        count = len(images.labels)
        order = torch.randperm(count, generator=ctx.rng("poison"))
        triggered = round(self.rate * count)
        crossed = order[triggered : triggered + round(self.cross * triggered)].sort().values
        rows = poisoned_rows(
            images.labels, self.rate, self.target, self.exclude_target, ctx.rng("poison")
        )
        if len(crossed):
            shape = (len(crossed), 2, *images.images.shape[-2:])
            jitter = torch.rand(shape, generator=ctx.rng("jitter")) * 2 - 1
            noisy = Warp(trigger.control, trigger.strength, jitter)
            images = poisoned(images, crossed, noisy, None)
        return poisoned(images, rows, trigger, self.target)

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)
