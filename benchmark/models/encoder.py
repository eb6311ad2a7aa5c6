"""The image tower of open_clip as a function of its weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    Encode = Callable[[Mapping[str, Tensor], Tensor], Tensor]
    """(weights, normalised images (B,3,S,S)) -> features (B,D)."""

Precision = Literal["float32", "bfloat16", "float16"]
LOSS_SCALE = 1024.0
"""Gradients inside the tower are this much larger in float16, whose smallest number is 6e-8."""


@dataclass
class Meter:
    """Images that went through an encoder."""

    forward_images: int = 0
    """Without a gradient."""
    backward_images: int = 0
    """With a gradient of the weights or the images; the backward pass itself is assumed."""


class Encoder:
    """open_clip's image tower with its weights passed in; keys are open_clip's without `visual.`.

    The module is built on the meta device: it holds no numbers, uses no generator, and every call
    must bring all weights.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        device: str = "cpu",
        *,
        precision: Precision = "float32",
        micro_batch: int | None = None,
        compiled: bool = False,
    ) -> None:
        """Builds the empty tower.

        Args:
            model: Keyword arguments of `open_clip.model.CLIP`.
            mean: Channel means of pixels in [0,1].
            std: Channel standard deviations of pixels in [0,1].
            device: Where images are moved; weights must already be there.
            precision: Of the matrix products (autocast); weights and features stay float32.
            micro_batch: Images that go through the tower at once; None: all. With a gradient, what
                the tower remembers of them is thrown away and computed again in the backward pass,
                so memory is that of one micro-batch, for a third more computing.
            compiled: Whether torch.compile makes kernels for it (minutes at the first call).
        """
        import torch
        from open_clip.model import CLIP

        with torch.device("meta"):
            tower = CLIP(**model).visual
        self._tower = tower.eval()
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self.device = device
        self.precision = precision
        self.micro_batch = micro_batch
        self._encode: Encode = torch.compile(self._plain) if compiled else self._plain
        self.meter = Meter()
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(value.shape) for name, value in tower.state_dict().items()
        }
        self.parameter_names: tuple[str, ...] = tuple(name for name, _ in tower.named_parameters())

    @property
    def tower(self) -> Any:
        """The empty module, for hooks (inside `bare`); whoever adds one removes it."""
        return self._tower

    @property
    def forward_images(self) -> int:
        """Images encoded without a gradient so far."""
        return self.meter.forward_images

    @property
    def backward_images(self) -> int:
        """Images encoded with a gradient so far."""
        return self.meter.backward_images

    def __call__(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Encodes images.

        Args:
            weights: Every tensor of the tower, with the names and shapes of `shapes`.
            images: (B,3,S,S), uint8 or float in [0,1], before normalisation.

        Returns:
            Features (B,D), not normalised, differentiable in weights and images.
        """
        import torch

        images = self._here(images)
        if images.dtype == torch.uint8:
            images = images.float() / 255
        graph = torch.is_grad_enabled() and (
            images.requires_grad or any(value.requires_grad for value in weights.values())
        )
        if graph:
            self.meter.backward_images += len(images)
        else:
            self.meter.forward_images += len(images)
        pixels = (images - self._mean) / self._std
        if self.micro_batch is None or len(pixels) <= self.micro_batch:
            return self._cast(weights, pixels)
        chunks = pixels.split(self.micro_batch)
        if not graph:
            return torch.cat([self._cast(weights, chunk) for chunk in chunks])
        return torch.cat([self._remade(weights, chunk) for chunk in chunks])

    def at(self, precision: Precision) -> Encoder:
        """The same tower and the same meter at another precision."""
        other = copy.copy(self)
        other.precision = precision
        return other

    @contextmanager
    def bare(self) -> Iterator[None]:
        """For hooks: inside, images go through the module itself, once and all together."""
        before = self.micro_batch, self._encode
        self.micro_batch, self._encode = None, self._plain
        try:
            yield
        finally:
            self.micro_batch, self._encode = before

    def _here(self, images: Tensor) -> Tensor:
        """Images on the device; copied to a GPU from pinned memory, so that nobody waits."""
        if self.device.startswith("cuda") and images.device.type == "cpu":
            return images.pin_memory().to(self.device, non_blocking=True)
        return images.to(self.device)

    def _plain(self, weights: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
        from torch.func import functional_call

        return functional_call(self._tower, dict(weights), (pixels,), strict=True)

    def _cast(self, weights: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
        """Features as float32 of products in `precision`.

        float16 loses small gradients, so its loss is scaled where it enters the tower and scaled
        back where it leaves; nobody outside notices.
        """
        import torch

        if self.precision == "float32":
            return self._encode(weights, pixels)
        half = self.precision == "float16"
        if half and torch.is_grad_enabled():
            weights = {name: regraded(value, 1 / LOSS_SCALE) for name, value in weights.items()}
            pixels = regraded(pixels, 1 / LOSS_SCALE)
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.float16 if half else torch.bfloat16):
            features = self._encode(weights, pixels).float()
        return regraded(features, LOSS_SCALE) if half and features.requires_grad else features

    def _remade(self, weights: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
        """As `_cast`, of which only the features are remembered until the backward pass."""
        from torch.utils.checkpoint import checkpoint

        names = tuple(weights)

        def encode(chunk: Tensor, *values: Tensor) -> Tensor:
            return self._cast(dict(zip(names, values, strict=True)), chunk)

        values = (weights[name] for name in names)
        made: Any = checkpoint(
            encode, pixels, *values, use_reentrant=False, preserve_rng_state=False
        )
        return made

    def blocks(self, weights: Mapping[str, Tensor], images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encodes images and shows what every residual block hands on.

        Args:
            weights: As in `__call__`.
            images: As in `__call__`.

        Returns:
            The output of each residual attention block, (B,T,W) with the class token first, and
            the features (B,D) that `__call__` gives.
        """
        found: list[Tensor] = []

        def keep(block: Any, args: Any, output: Tensor) -> None:
            found.append(output)

        tower: Any = self._tower
        hooks = [one.register_forward_hook(keep) for one in tower.transformer.resblocks]
        try:
            with self.bare():
                features = self(weights, images)
        finally:
            for hook in hooks:
                hook.remove()
        return found, features


def regraded(value: Tensor, factor: float) -> Tensor:
    """The same numbers, whose gradient is `factor` times as large; finite values only."""
    return value.detach() + factor * (value - value.detach())
