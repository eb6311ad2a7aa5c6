"""A trigger that a network draws anew for every image: a pattern and where it shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchError
from benchmark.types import Tensors

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module

DEPTH = 3
"""How often a network halves the image's side, and doubles its channels."""


@dataclass(frozen=True, eq=False)
class Generated:
    """B(x) = x + m (p - x), pattern p = G(x) and sharpened mask m = T(M(x)).

    Attributes:
        pattern: (P,), all parameters of G, see `draw`.
        mask: (Q,), those of M.
        width: channels of their first layer.
        side: S of the images, a multiple of 8.
        order: (S*S,) int64, a permutation of the pattern's pixels; None: as they are.
    """

    pattern: Tensor
    mask: Tensor
    width: int
    side: int
    order: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse sides that cannot be halved three times."""
        if self.side % 2**DEPTH:
            raise BenchError(
                f"images of {self.side} px cannot be halved {DEPTH} times for a generated trigger; "
                f"use a backbone whose image side is a multiple of {2**DEPTH}"
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Trigger images (B,3,S,S) in [0,1], each with a pattern of its own."""
        return self.pasted(images, images)

    def pasted(self, images: Tensor, source: Tensor) -> Tensor:
        """The pattern and mask of `source` on `images`, both (B,3,S,S) in [0,1]."""
        shown = sharpened(draw(self.mask, source, self.width, 1))
        drawn = draw(self.pattern, source, self.width, 3)
        if self.order is not None:
            drawn = drawn.flatten(2)[..., self.order.to(drawn.device)].view_as(drawn)
        return images + shown * (drawn - images)

    def shuffled(self, rng: Generator) -> Generated:
        """The same masks over patterns with permuted pixels."""
        import torch

        order = torch.randperm(self.side**2, generator=rng)
        return Generated(self.pattern, self.mask, self.width, self.side, order)

    def tensors(self) -> Tensors:
        """The parameters and, if there is one, the permutation."""
        order = {} if self.order is None else {"order": self.order}
        return {"pattern": self.pattern, "mask": self.mask, **order}

    def settings(self) -> dict[str, Any]:
        """The width and the side."""
        return {"width": self.width, "side": self.side}


def sharpened(mask: Tensor) -> Tensor:
    """T(m) = tanh(20 m - 10) / 2 + 1/2, in [0,1]: nearly all or nothing."""
    return (20 * mask - 10).tanh() / 2 + 0.5


def draw(parameters: Tensor, images: Tensor, width: int, channels: int) -> Tensor:
    """What a network makes of images: (B,channels,S,S) in [0,1], tanh / 2 + 1/2 of its output.

    Args:
        parameters: (P,), its parameters in order.
        images: (B,3,S,S) in [0,1]; S is a multiple of 8.
        width: channels of its first layer; deeper ones have two and four times as many.
        channels: of its output.
    """
    from torch.func import functional_call

    network, place, weights = _network(width, channels), 0, {}
    for name, one in network.named_parameters():
        weights[name] = parameters[place : place + one.numel()].view_as(one)
        place += one.numel()
    return functional_call(network, weights, (2 * images - 1,)).tanh() / 2 + 0.5


def fresh(width: int, channels: int, rng: Generator) -> Tensor:
    """Parameters (P,) to start from, drawn as torch does by default."""
    import torch
    from torch.nn.utils import parameters_to_vector

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        return parameters_to_vector(_built(width, channels).parameters()).detach()


@cache
def _network(width: int, channels: int) -> Module:
    """The architecture without numbers."""
    import torch

    with torch.device("meta"):
        return _built(width, channels)


def _built(width: int, channels: int) -> Module:
    from torch import nn

    def block(into: int, out: int) -> list[Module]:
        # Group normalisation keeps no statistics, so a trigger does not depend on its batch.
        return [nn.Conv2d(into, out, 3, padding=1), nn.GroupNorm(min(8, out), out), nn.ReLU()]

    widths = [width * 2**i for i in range(DEPTH)]
    layers: list[Module] = []
    for into, out in zip([3, *widths], widths, strict=False):
        layers += [*block(into, out), *block(out, out), nn.MaxPool2d(2)]
    layers += block(widths[-1], widths[-1])
    for into, out in zip(widths[::-1], [*widths[-2::-1], width], strict=True):
        layers += [nn.Upsample(scale_factor=2, mode="bilinear"), *block(into, out)]
    return nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))
