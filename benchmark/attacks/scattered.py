"""A patch whose place differs from image to image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.attacks.triggers import Patch
from benchmark.errors import BenchError
from benchmark.seeds import generator
from benchmark.types import Tensors

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, eq=False)
class Scattered:
    """A square pasted at a pseudo-random place of each image.

    The place is a hash of the image's 8-bit pixels, so it depends on the seed and the image alone:
    neither on the batch it comes in nor on how often it is triggered. All places at which the
    square fits are possible.

    Attributes:
        patch: (3,k,k) in [0,1].
        seed: of the hash.
    """

    patch: Tensor
    seed: int

    def __post_init__(self) -> None:
        """Refuse what is no square of valid pixels."""
        Patch(self.patch, 0, 0)

    def places(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Top rows (B,) and left columns (B,) in images (B,3,H,W) in [0,1]."""
        import torch

        height, width = images.shape[-2:]
        size = self.patch.shape[-1]
        if size > min(height, width):
            raise BenchError(
                f"a patch of {size} px does not fit images of {height}x{width} px; "
                "choose a smaller size"
            )
        pixels = images.detach().mul(255).round().long().flatten(1)
        rng = generator("scattered", self.seed)
        # In int64 the sum holds up to images of 2,300 px a side.
        factors = torch.randint(2**31, (pixels.shape[1],), generator=rng).to(pixels.device)
        down, across = height - size + 1, width - size + 1
        place = (pixels * factors).sum(1) % (down * across)
        return place // across, place % across

    def __call__(self, images: Tensor) -> Tensor:
        """Trigger images (B,3,H,W) in [0,1]; differentiable in the patch and the kept pixels."""
        import torch

        row, col = self.places(images)
        steps = torch.arange(self.patch.shape[-1], device=images.device)
        which = torch.arange(len(images), device=images.device)[:, None, None]
        triggered = images.clone()
        # Indices (B,k,1) and (B,1,k) around a slice put the slice last: values are (B,k,k,3).
        triggered[which, :, (row[:, None] + steps)[:, :, None], (col[:, None] + steps)[:, None]] = (
            self.patch.to(images).permute(1, 2, 0).expand(len(images), -1, -1, -1)
        )
        return triggered

    def shuffled(self, rng: Generator) -> Scattered:
        """The same places, with the square's pixels permuted."""
        return Scattered(Patch(self.patch, 0, 0).shuffled(rng).patch, self.seed)

    def tensors(self) -> Tensors:
        """The patch."""
        return {"patch": self.patch}

    def settings(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}
