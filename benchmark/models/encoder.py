"""The image tower of open_clip as a function of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


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
    ) -> None:
        """Builds the empty tower.

        Args:
            model: Keyword arguments of `open_clip.model.CLIP`.
            mean: Channel means of pixels in [0,1].
            std: Channel standard deviations of pixels in [0,1].
            device: Where images are moved; weights must already be there.
        """
        import torch
        from open_clip.model import CLIP

        with torch.device("meta"):
            tower = CLIP(**model).visual
        self._tower = tower.eval()
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=device).view(1, 3, 1, 1)
        self.device = device
        self.meter = Meter()
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(value.shape) for name, value in tower.state_dict().items()
        }
        self.parameter_names: tuple[str, ...] = tuple(name for name, _ in tower.named_parameters())

    @property
    def tower(self) -> Any:
        """The empty module, for hooks; whoever adds one removes it."""
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
        from torch.func import functional_call

        images = images.to(self.device)
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
        return functional_call(self._tower, dict(weights), (pixels,), strict=True)

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
            features = self(weights, images)
        finally:
            for hook in hooks:
                hook.remove()
        return found, features
