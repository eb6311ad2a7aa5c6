"""State dicts of open_clip's image tower with random weights, as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmark.seeds import generator

STEP = 1e-3
"""Standard deviation of an expert's difference to the base."""


@dataclass(frozen=True)
class Tower:
    """The sizes of a ViT."""

    width: int
    layers: int
    patch: int
    tokens: int
    out: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor -> shape, with open_clip's names."""
        w = self.width
        found: dict[str, tuple[int, ...]] = {
            "class_embedding": (w,),
            "positional_embedding": (self.tokens, w),
            "proj": (w, self.out),
            "conv1.weight": (w, 3, self.patch, self.patch),
            **_norms("ln_pre", w),
            **_norms("ln_post", w),
        }
        for layer in range(self.layers):
            block = f"transformer.resblocks.{layer}"
            found |= _norms(f"{block}.ln_1", w) | _norms(f"{block}.ln_2", w)
            found |= {
                f"{block}.attn.in_proj_weight": (3 * w, w),
                f"{block}.attn.in_proj_bias": (3 * w,),
                f"{block}.attn.out_proj.weight": (w, w),
                f"{block}.attn.out_proj.bias": (w,),
                f"{block}.mlp.c_fc.weight": (4 * w, w),
                f"{block}.mlp.c_fc.bias": (4 * w,),
                f"{block}.mlp.c_proj.weight": (w, 4 * w),
                f"{block}.mlp.c_proj.bias": (w,),
            }
        return found

    def count(self) -> int:
        """Parameters."""
        return sum(torch.Size(shape).numel() for shape in self.shapes().values())


def _norms(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


VIT_B32 = Tower(width=768, layers=12, patch=32, tokens=50, out=512)
SMALL = Tower(width=32, layers=2, patch=4, tokens=10, out=16)


def written(tower: Tower, tasks: int, folder: Path) -> list[Path]:
    """Files of the base and of every task's expert, in that order."""
    paths = [folder / f"model{index}.safetensors" for index in range(tasks + 1)]
    base = {}
    for index, path in enumerate(paths):
        rng = generator("bench", index)
        drawn = {name: torch.randn(s, generator=rng) for name, s in tower.shapes().items()}
        if index == 0:
            base = {name: 0.02 * value for name, value in drawn.items()}
            save_file(base, path)
        else:
            save_file({name: base[name] + STEP * value for name, value in drawn.items()}, path)
    return paths
