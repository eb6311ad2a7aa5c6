"""Triggers: maps on images (B,3,H,W) in [0,1], before normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from benchmark.components import locate
from benchmark.errors import BenchError
from benchmark.types import StateDict, Tensors, Threat, Trigger

if TYPE_CHECKING:
    from torch import Generator, Tensor

Pixel = Annotated[int, Field(ge=0, le=1024)]
Spot = (
    Literal["top_left", "top_right", "bottom_left", "bottom_right", "center"] | tuple[Pixel, Pixel]
)
"""Where in an image a patch sits: corners are flush with the edges; [row, col] is its top left."""


@dataclass(frozen=True, eq=False)
class Patch:
    """A square pasted over the image, B(x) = m p + (1 - m) x with m the k x k box.

    The box itself is replaced, not "the pixels where p is not 0" as in BadMerging's and
    BackdoorBench's code, so black can be part of a patch.

    Attributes:
        patch: (3,k,k) in [0,1].
        row: top row of the box.
        col: left column of the box.
    """

    patch: Tensor
    row: int
    col: int

    def __post_init__(self) -> None:
        """Refuse what is no square of valid pixels."""
        shape, patch = tuple(self.patch.shape), self.patch.detach()
        if len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
            raise BenchError(f"a patch has shape (3,k,k), not {shape}")
        if not ((patch >= 0) & (patch <= 1)).all():
            raise BenchError(
                f"a patch holds pixels in [0,1], not in [{float(patch.min())}, "
                f"{float(patch.max())}]; divide 8-bit values by 255"
            )

    @property
    def size(self) -> int:
        """k, in pixels."""
        return self.patch.shape[-1]

    def __call__(self, images: Tensor) -> Tensor:
        """Trigger images (B,3,H,W) in [0,1]; differentiable in the images and the patch."""
        height, width = images.shape[-2:]
        bottom, right = self.row + self.size, self.col + self.size
        if min(self.row, self.col) < 0 or bottom > height or right > width:
            raise BenchError(
                f"a patch of {self.size} px at row {self.row}, column {self.col} does not fit "
                f"images of {height}x{width} px; choose a smaller size"
            )
        triggered = images.clone()
        triggered[..., self.row : bottom, self.col : right] = self.patch.to(images)
        return triggered

    def shuffled(self, rng: Generator) -> Patch:
        """The same box with its pixels permuted; the three colours of a pixel stay together."""
        import torch

        order = torch.randperm(self.size**2, generator=rng).to(self.patch.device)
        return Patch(self.patch.flatten(1)[:, order].view_as(self.patch), self.row, self.col)

    def tensors(self) -> Tensors:
        """The patch."""
        return {"patch": self.patch}

    def settings(self) -> dict[str, Any]:
        """Its place."""
        return {"row": self.row, "col": self.col}

    def __eq__(self, other: object) -> bool:
        """Same pixels at the same place."""
        return (
            isinstance(other, Patch)
            and self.settings() == other.settings()
            and self.patch.shape == other.patch.shape
            and bool((self.patch == other.patch.to(self.patch)).all())
        )

    def __hash__(self) -> int:
        """Equal patches have equal places and sizes."""
        return hash((self.row, self.col, self.size))


def place_of(place: Spot, size: int, side: int) -> tuple[int, int]:
    """Top row and left column of a box of `size` px in an image of `side` px."""
    if not 0 < size <= side:
        raise BenchError(
            f"a trigger of {size} px does not fit images of {side} px; give size=1 to {side}"
        )
    last, middle = side - size, (side - size) // 2
    if not isinstance(place, str):
        if max(place) > last:
            raise BenchError(
                f"a trigger of {size} px at {list(place)} does not fit images of {side} px; "
                f"give rows and columns from 0 to {last}"
            )
        return place
    row = middle if place == "center" else last * place.startswith("bottom")
    col = middle if place == "center" else last * place.endswith("right")
    return row, col


def same_size(what: str, pattern: Tensor, images: Tensor) -> None:
    """Refuse images (B,C,H,W) that a pattern (C,H,W) over the whole image was not made for."""
    if pattern.shape[-2:] != images.shape[-2:]:
        (height, width), (high, wide) = pattern.shape[-2:], images.shape[-2:]
        raise BenchError(
            f"{what} of {height}x{width} px does not fit images of {high}x{wide} px; "
            "make it at their size"
        )


def image_side(base: StateDict) -> int:
    """Side in pixels of the images that a vision transformer's weights were made for.

    Read from the weights, so that an attack which may see no images can still place its trigger:
    patch size times the square root of the number of patch positions (one more is the class token).
    """
    try:
        tokens, patch = base["positional_embedding"].shape[0], base["conv1.weight"].shape[-1]
    except KeyError as error:
        raise BenchError(
            f"the image side cannot be read from weights without {error}; use a ViT backbone"
        ) from error
    return patch * isqrt(tokens - 1)


def checker(size: int) -> Tensor:
    """A black-and-white checkerboard (3,k,k) of single pixels, white at the top left."""
    import torch

    steps = torch.arange(size)
    return ((steps[:, None] + steps) % 2 == 0).float().expand(3, size, size).clone()


def white(size: int) -> Tensor:
    """A white square (3,k,k), BadNets' and BackdoorBench's own trigger."""
    import torch

    return torch.ones(3, size, size)


def fixed_patch(place: Spot, size: int, base: StateDict) -> Patch:
    """The checkerboard at a place: the trigger of `badnets` and the reference of `none`."""
    return Patch(checker(size), *place_of(place, size, image_side(base)))


def only_patches(threats: Sequence[Threat]) -> str | None:
    """None if every threat's trigger is a `Patch`, else a reason not to treat it as one."""
    others = [type(threat.trigger).__name__ for threat in threats]
    others = [name for name in others if name != Patch.__name__]
    return f"the trigger is a {others[0]}, not a pasted patch" if others else None


def trigger_state(trigger: Trigger) -> tuple[Tensors, dict[str, Any]]:
    """A trigger as (tensors, plain JSON), the two halves of an artifact."""
    cls = type(trigger)
    info = {"_target_": f"{cls.__module__}.{cls.__qualname__}", "settings": trigger.settings()}
    return trigger.tensors(), info


def rebuild_trigger(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Trigger:
    """The inverse of `trigger_state`."""
    return locate(info["_target_"])(**tensors, **info["settings"])
