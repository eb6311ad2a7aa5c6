"""Second moments of what each linear layer of an image tower is fed.

open_clip's attention is a functional call: a hook on `attn.out_proj` never fires and
`attn.in_proj_weight` belongs to no linear layer, so their inputs are taken from the normalised
tokens before the block's attention, which is then computed once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, unfold

if TYPE_CHECKING:
    from benchmark.models.encoder import Encoder
    from benchmark.types import StateDict

PROJECTION = "proj"
"""The tower's last matrix, used as x @ proj: its inputs run along the first axis."""


@dataclass
class Moments:
    """Running sums, by name of the weight that is fed.

    Attributes:
        sums: (d,d) float64 sums of x x^T over all tokens of all images, not centred.
        counts: tokens in each sum.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, inputs: Tensor) -> None:
        """Take in inputs (..., d)."""
        rows = inputs.detach().flatten(0, -2).double()
        self.sums[name] = self.sums.get(name, 0) + rows.T @ rows
        self.counts[name] = self.counts.get(name, 0) + len(rows)

    def means(self) -> dict[str, Tensor]:
        """E[x x^T], (d,d) float64, by weight."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}


@contextmanager
def recorded(encoder: Encoder, weights: StateDict) -> Iterator[Moments]:
    """Moments of every forward pass that the encoder makes inside the block, under `weights`."""
    found = Moments()
    hooks = list(_hooks(encoder.tower, weights, found))
    try:
        with encoder.bare():
            yield found
    finally:
        for hook in hooks:
            hook.remove()


def _hooks(tower: Any, weights: Mapping[str, Tensor], found: Moments) -> Iterator[Any]:
    conv = tower.conv1

    def patches(_module: Any, args: tuple[Tensor, ...]) -> None:
        pixels = unfold(args[0], conv.kernel_size, stride=conv.stride)
        found.add("conv1.weight", pixels.transpose(1, 2))

    yield conv.register_forward_pre_hook(patches)
    for place, block in enumerate(tower.transformer.resblocks):
        name = f"transformer.resblocks.{place}."
        yield block.ln_1.register_forward_hook(_attention(block, name, weights, found))
        yield block.ln_2.register_forward_hook(_output(found, name + "mlp.c_fc.weight"))
        yield block.mlp.c_proj.register_forward_pre_hook(_input(found, name + "mlp.c_proj.weight"))
    if PROJECTION in weights:
        yield tower.ln_post.register_forward_hook(_class_token(found))


def _output(found: Moments, name: str) -> Callable[..., None]:
    return lambda _module, _args, out: found.add(name, out)


def _input(found: Moments, name: str) -> Callable[..., None]:
    return lambda _module, args: found.add(name, args[0])


def _class_token(found: Moments) -> Callable[..., None]:
    return lambda _module, _args, out: found.add(PROJECTION, out[:, 0])


def _attention(
    block: Any, name: str, weights: Mapping[str, Tensor], found: Moments
) -> Callable[..., None]:
    """What in_proj is fed: ln_1's output; what out_proj is fed: the concatenated heads."""

    def hook(_module: Any, _args: Any, tokens: Tensor) -> None:
        found.add(name + "attn.in_proj_weight", tokens)
        packed, bias = weights[name + "attn.in_proj_weight"], weights[name + "attn.in_proj_bias"]
        with torch.no_grad():
            split = [
                part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2)
                for part in (tokens @ packed.T + bias).chunk(3, -1)
            ]
            query, key, value = split
            heads = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        found.add(name + "attn.out_proj.weight", heads)

    return hook
