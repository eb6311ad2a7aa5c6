"""SIG (Barni et al., ICIP 2019): a sinusoid over images of the target class, labels unchanged."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.poison import class_rows, poisoned
from benchmark.attacks.threat_model import OUTSIDER, OWN_IMAGES, ThreatModel
from benchmark.attacks.triggers import image_side, same_size
from benchmark.components import component
from benchmark.types import Compromise, Expert, Grant, StateDict, Tensors, Threat

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmark.context import Context

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Added:
    """B(x) = clip(x + d).

    Attributes:
        pattern: d, (1,H,W) in [-1,1], the same for all colours.
    """

    pattern: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Trigger images (B,3,H,W) in [0,1]."""
        same_size("an added pattern", self.pattern, images)
        return (images + self.pattern.to(images)).clamp(0, 1)

    def shuffled(self, rng: Generator) -> Added:
        """The pattern with its pixels permuted."""
        import torch

        flat = self.pattern.flatten()
        order = torch.randperm(len(flat), generator=rng).to(flat.device)
        return Added(flat[order].view_as(self.pattern))

    def tensors(self) -> Tensors:
        """The pattern."""
        return {"pattern": self.pattern}

    def settings(self) -> dict[str, Any]:
        """None."""
        return {}


def sinusoid(amplitude: float, frequency: float, side: int) -> Tensor:
    """(1,S,S): amplitude * sin(2 pi column frequency / side), alike in all rows."""
    import torch

    columns = torch.arange(side, dtype=torch.float64)
    wave = amplitude * torch.sin(2 * math.pi * columns * frequency / side)
    return wave.float().expand(1, side, side).clone()


@component
class Sig:
    """Clean-label poisoning: images of the target class get the trigger and keep their label.

    Deviation: the rate is a share of the target class (BackdoorBench: of all images, which cannot
    be had where the class is smaller); poisoned images are rounded to 8 bits.

    Attributes:
        adversary: task whose contributor attacks; also the victim.
        target: class that triggered images should go to.
        amplitude: of the sinusoid, in [0,1] of the pixel range.
        frequency: its periods across the image.
        rate: share of the training images of the target class that is poisoned.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        OUTSIDER,
        "The training images of one class of its own task; labels and training are honest.",
        OWN_IMAGES,
    )
    adversary: str
    target: Annotated[int, Field(ge=0)]
    amplitude: Annotated[float, Field(gt=0, le=1)]
    frequency: Annotated[float, Field(gt=0, le=512)]
    rate: Annotated[float, Field(ge=0, le=1)]
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
        """Poison images of the target class, then fine-tune as the recipe says."""
        trigger = Added(sinusoid(self.amplitude, self.frequency, image_side(base)))
        images = ctx.images(self.adversary, TRAIN)
        assert images.labels is not None  # granted with labels
        rows = class_rows(images.labels, self.rate, self.target, ctx.rng("poison"))
        log.info("%d images of class %d poisoned, labels unchanged", len(rows), self.target)
        data = poisoned(images, rows, trigger, None)
        expert = trained(
            self, base, honest[self.adversary], data, ctx, extra_loss=None, epochs=self.epochs
        )
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,))

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)
