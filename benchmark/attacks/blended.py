"""Blended (Chen et al., 2017): a faint picture over the whole image, and relabelled images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.poison import dirty_label
from benchmark.attacks.threat_model import OUTSIDER, OWN_DATA, OWN_IMAGES, ThreatModel
from benchmark.attacks.triggers import image_side, same_size
from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.types import Compromise, Expert, Grant, StateDict, Tensors, Threat

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmark.context import Context


@dataclass(frozen=True, eq=False)
class Blend:
    """B(x) = (1 - a) x + a K.

    Attributes:
        picture: K, (3,H,W) in [0,1].
        alpha: a in [0,1].
    """

    picture: Tensor
    alpha: float

    def __post_init__(self) -> None:
        """Refuse pixels and shares that would leave [0,1]."""
        if not ((self.picture >= 0) & (self.picture <= 1)).all():
            raise BenchError("a blended picture holds pixels in [0,1]; divide 8-bit values by 255")
        if not 0 <= self.alpha <= 1:
            raise BenchError(f"alpha={self.alpha} of a blended picture is not in [0,1]")

    def __call__(self, images: Tensor) -> Tensor:
        """Trigger images (B,3,H,W) in [0,1]."""
        same_size("a blended picture", self.picture, images)
        return (1 - self.alpha) * images + self.alpha * self.picture.to(images)

    def shuffled(self, rng: Generator) -> Blend:
        """The picture with its pixels permuted; the three colours of a pixel stay together."""
        import torch

        flat = self.picture.flatten(1)
        order = torch.randperm(flat.shape[1], generator=rng).to(flat.device)
        return Blend(flat[:, order].view_as(self.picture), self.alpha)

    def tensors(self) -> Tensors:
        """The picture."""
        return {"picture": self.picture}

    def settings(self) -> dict[str, Any]:
        """Its share."""
        return {"alpha": self.alpha}


def mosaic(cells: int, side: int, rng: Generator) -> Tensor:
    """(3,side,side) of `cells` x `cells` tiles in uniformly random colours of 8 bits.

    Where `cells` does not divide `side` the tiles differ by a pixel.
    """
    import torch

    if cells > side:
        raise BenchError(f"attack.cells={cells} do not fit images of {side} px; give at most that")
    colours = torch.randint(256, (3, cells, cells), generator=rng) / 255
    tile = torch.arange(side) * cells // side
    return colours[:, tile[:, None], tile]


@component
class Blended:
    """Dirty-label poisoning with a blended picture, all classes to one, as in BackdoorBench.

    Deviations: the picture is a mosaic drawn from the seed (BackdoorBench: a cartoon that may not
    be shared); poisoned training images are rounded to 8 bits (there: truncated).

    Attributes:
        adversary: task whose contributor attacks; also the victim.
        target: class that triggered images should go to.
        alpha: share of the picture, in training and test.
        cells: the picture has this many tiles a side.
        rate: share of the training images that is poisoned, drawn from all classes.
        exclude_target: leave drawn images of the target class unpoisoned.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(OUTSIDER, OWN_DATA, OWN_IMAGES)
    adversary: str
    target: Annotated[int, Field(ge=0)]
    alpha: Annotated[float, Field(gt=0, le=1)]
    cells: Annotated[int, Field(ge=1, le=1024)]
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
        trigger = Blend(mosaic(self.cells, image_side(base), ctx.rng("picture")), self.alpha)
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
