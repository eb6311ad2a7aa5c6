"""A CLIP model: architecture, preprocessing and where its base weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.errors import BadCheckpoint, BenchError
from benchmark.store import file_sha256

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from torch import Tensor

    from benchmark.models.encoder import Encoder

PACKAGE = "package:"
"""Prefix of weights that are shipped in `benchmark/weights`."""
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
    """An open_clip model and its base weights."""

    version: ClassVar[int] = 1
    model: dict[str, Any]
    """Keyword arguments of `open_clip.model.CLIP`: embed_dim, vision_cfg, text_cfg."""
    weights: str | None
    """`package:NAME` for shipped weights, a path, or None: pre-train."""
    mean: Channels
    std: tuple[Positive, Positive, Positive]
    logit_scale: Positive
    """Factor of the cosine similarities in zero-shot heads."""
    image_size: Annotated[int, Field(ge=8, le=1024)]
    pretrain: Pretraining | None

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

        return Encoder(self.model, self.mean, self.std, device)

    def path(self) -> Path:
        """File of the base weights."""
        if self.weights is None:
            raise ValueError("this backbone has no weights: run benchmark.pretraining.pretrain")
        if self.weights.startswith(PACKAGE):
            return Path(__file__).parents[1] / "weights" / self.weights.removeprefix(PACKAGE)
        return Path(self.weights)

    def weights_sha256(self) -> str | None:
        """Hex sha256 of the weights file: the base's part in every cache key; None without one.

        Raises:
            BenchError: the file is not there.
        """
        if self.weights is None:
            return None
        try:
            return file_sha256(self.path())
        except OSError as error:
            raise BenchError(
                f"backbone.weights={self.weights} cannot be read ({error.strerror}); "
                "give a safetensors file, or null to pre-train"
            ) from error

    def load(self) -> dict[str, Tensor]:
        """Full CLIP state dict as float32, checked against the architecture.

        Raises:
            BadCheckpoint: not a safetensors file, or not of this model (names three tensors).
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from benchmark.algebra import first_faults

        try:
            state = {name: value.float() for name, value in load_file(self.path()).items()}
        except (SafetensorError, OSError) as error:
            raise BadCheckpoint(
                f"backbone.weights={self.weights} is not a safetensors file ({error}); "
                "give one, or null to pre-train"
            ) from error
        if faults := first_faults(self.build(seed=0).state_dict(), state):
            raise BadCheckpoint(
                f"backbone.weights={self.weights} does not fit backbone.model: {faults}; "
                "give weights of this architecture"
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
