"""A CLIP model: architecture, preprocessing and where its base weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from benchmark.components import component
from benchmark.errors import BadCheckpoint, BenchError
from benchmark.models.weights import (
    HUB,
    PACKAGE,
    hub_file,
    locate_weights,
    read_weights,
    stated_activation,
)
from benchmark.store import content_sha256

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from torch import Tensor

    from benchmark.models.encoder import Encoder

Channels = tuple[float, float, float]
Positive = Annotated[float, Field(gt=0)]


@component
class Pretraining:
    """How base weights are made from captioned images, see `benchmark.pretraining.pretrain`."""

    epochs: Annotated[int, Field(ge=1, le=1000)]
    lr: Annotated[float, Field(gt=0, le=1)]
    """Peak learning rate of AdamW."""
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    batch: Annotated[int, Field(ge=2)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    """Share of the steps with a rising learning rate."""
    clip: Positive
    """Largest norm of the gradient."""
    temperature: Positive
    """Fixed scale of the cosine similarities; open_clip learns it."""


@component
class Backbone:
    """An open_clip model and its base weights.

    `micro_batch` and `compiled` say how it is computed and not what, as device and threads do, so
    they are in no key; both change the rounding.
    """

    version: ClassVar[int] = 1
    neutral: ClassVar[dict[str, Any]] = {"name": None, "precision": "float32"}
    unkeyed: ClassVar[tuple[str, ...]] = ("micro_batch", "compiled")
    name: str | None
    """open_clip's name of the architecture, which pins the activation; None: one of our own."""
    model: dict[str, Any]
    """Keyword arguments of `open_clip.model.CLIP`: embed_dim, quick_gelu, vision_cfg, text_cfg."""
    weights: str | None
    """`package:NAME` for shipped weights, `hub:OWNER/REPO/FILE` for a file of the Hugging Face hub
    that is in the local cache, a path, or None: pre-train."""
    mean: Channels
    std: tuple[Positive, Positive, Positive]
    logit_scale: Positive
    """Factor of the cosine similarities in zero-shot heads."""
    image_size: Annotated[int, Field(ge=8, le=1024)]
    pretrain: Pretraining | None
    precision: Literal["float32", "bfloat16", "float16"]
    """Of the image tower's matrix products (autocast), in training and everywhere else."""
    micro_batch: Annotated[int, Field(ge=1)] | None
    """Images that go through the image tower at once, see `Encoder`; None: all."""
    compiled: bool
    """Whether torch.compile makes kernels of the image tower."""

    def __post_init__(self) -> None:
        """Refuse weights of no known form, and an activation that the name does not mean."""
        if self.weights is not None and self.weights.startswith(HUB):
            hub_file(self.weights)
        if self.name is not None and self.name.endswith("-quickgelu") != self.quick_gelu:
            has, wanted = ("no", "false") if self.quick_gelu else ("a", "true")
            raise ValueError(
                f"'{self.name}' is a model with {has} quick_gelu; set "
                f"backbone.model.quick_gelu={wanted}, or another name"
            )

    @property
    def files(self) -> dict[str, Path]:
        """In keys the content of a file stands for its path; shipped weights have their name."""
        outside = self.weights is not None and not self.weights.startswith(PACKAGE)
        return {"weights": self.path()} if outside else {}

    @property
    def quick_gelu(self) -> bool:
        """Whether the activation is x sigmoid(1.702 x), as in OpenAI's models."""
        return bool(self.model.get("quick_gelu", False))

    def build(self, seed: int) -> CLIP:
        """An open_clip model with weights drawn from `seed`, not from the global generator."""
        import torch
        from open_clip.model import CLIP

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return CLIP(**self.model)

    def encoder(self, device: str = "cpu") -> Encoder:
        """The image tower as a function of its weights, with its meter at zero."""
        from benchmark.models.encoder import Encoder

        return Encoder(
            self.model,
            self.mean,
            self.std,
            device,
            precision=self.precision,
            micro_batch=self.micro_batch,
            compiled=self.compiled,
        )

    def path(self) -> Path:
        """File of the base weights; BenchError for one on the hub that was never downloaded."""
        if self.weights is None:
            raise ValueError("this backbone has no weights: run benchmark.pretraining.pretrain")
        return locate_weights(self.weights)

    def weights_sha256(self) -> str | None:
        """Hex sha256 of the weights file: the base's part in every cache key; None without one.

        Raises:
            BenchError: the file is not there.
        """
        if self.weights is None:
            return None
        try:
            return content_sha256(self.path())
        except OSError as error:
            raise BenchError(
                f"backbone.weights={self.weights} cannot be read ({error.strerror}); give a file "
                "of weights, or null to pre-train"
            ) from error

    def load(self) -> dict[str, Tensor]:
        """Full CLIP state dict as float32, checked against the architecture.

        Raises:
            BadCheckpoint: not readable, made with another activation, or not of this model (names
                three tensors).
        """
        from benchmark.algebra import first_faults
        from benchmark.models.published import check_published

        state = read_weights(self.path())
        if faults := first_faults(self.build(seed=0).state_dict(), state):
            raise BadCheckpoint(
                f"backbone.weights={self.weights} does not fit backbone.model: {faults}; "
                "give weights of this architecture"
            )
        check_published(self)
        stated = stated_activation(self.path())
        if stated not in (None, "quickgelu" if self.quick_gelu else "gelu"):
            raise BadCheckpoint(
                f"backbone.weights={self.weights} says that it was made with {stated}, and "
                f"backbone.model.quick_gelu={str(self.quick_gelu).lower()}; they must agree"
            )
        return state


def image_tower(clip_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the image tower, named without `visual.`."""
    prefix = "visual."
    return {
        name.removeprefix(prefix): value
        for name, value in clip_state.items()
        if name.startswith(prefix)
    }
