"""CLIP's weights by open_clip's names and by those of Hugging Face: the same numbers both ways.

open_clip packs the query, key and value matrices into one, and multiplies with `proj` from the
right; transformers has three matrices and a linear layer. Nothing else differs but names, so both
ways are exact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from benchmark.types import Tensors

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
"""Parts of a residual block: theirs -> open_clip's."""
VISION = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.patch_embedding.weight": "conv1.weight",
    "pre_layrnorm.weight": "ln_pre.weight",  # their spelling
    "pre_layrnorm.bias": "ln_pre.bias",
    "post_layernorm.weight": "ln_post.weight",
    "post_layernorm.bias": "ln_post.bias",
}
TEXT = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
PROJECTION = "visual_projection.weight"
THEIR_BLOCK, OUR_BLOCK = r"encoder\.layers\.(\d+)\.(.+)", r"transformer\.resblocks\.(\d+)\.(.+)"
PACKED = re.compile(r"(.+)\.self_attn\.([qkv])_proj\.(weight|bias)")


def from_hugging_face(vision: Mapping[str, Tensor], projection: Tensor | None) -> Tensors:
    """The image tower by open_clip's names.

    Args:
        vision: a vision model's weights, named without `vision_model.`.
        projection: `visual_projection.weight` (D,W), if there is one.

    Returns:
        Every tensor; one whose name is unknown keeps it, so that a comparison finds it.
    """
    import torch

    packed: dict[str, dict[str, Tensor]] = {}
    tower: Tensors = {}
    for name, value in vision.items():
        if found := PACKED.fullmatch(name):
            block, letter, kind = found.groups()
            packed.setdefault(f"{_ours(block + '.')}attn.in_proj_{kind}", {})[letter] = value
        else:
            tower[_ours(name)] = value
    for name, parts in packed.items():
        alike = len({one.shape for one in parts.values()}) == 1
        if parts.keys() == set("qkv") and alike:
            tower[name] = torch.cat([parts[letter] for letter in "qkv"])
        else:  # left apart, for the comparison to find
            tower |= {f"{name} ({letter})": one for letter, one in parts.items()}
    if projection is not None:
        tower["proj"] = projection.T.contiguous() if projection.ndim == 2 else projection
    return tower


def to_hugging_face(clip: Mapping[str, Tensor]) -> Tensors:
    """A full CLIP as transformers' CLIPModel names it.

    Args:
        clip: open_clip's state dict of a CLIP with two transformers.

    Returns:
        The same numbers, contiguous.
    """
    vision, text = VISION.items(), TEXT.items()
    names = {f"visual.{ours}": f"vision_model.{theirs}" for theirs, ours in vision}
    names |= {ours: f"text_model.{theirs}" for theirs, ours in text}
    found: Tensors = {}
    for name, value in clip.items():
        if name in ("visual.proj", "text_projection"):
            theirs = PROJECTION if name == "visual.proj" else "text_projection.weight"
            found[theirs] = value.T.contiguous()
        elif name in names or name == "logit_scale":
            found[names.get(name, name)] = value
        else:
            found |= _their_block(name, value)
    return found


def _ours(name: str) -> str:
    """open_clip's name of one of their vision model's tensors; unknown names stay."""
    if name in VISION:
        return VISION[name]
    found = re.fullmatch(THEIR_BLOCK.replace("(.+)", "(.*)"), name)
    if found is None:
        return name
    rest = found[2]
    for theirs, ours in BLOCK.items():
        if rest.startswith(f"{theirs}."):
            rest = f"{ours}{rest.removeprefix(theirs)}"
            break
    return f"transformer.resblocks.{found[1]}.{rest}"


def _their_block(name: str, value: Tensor) -> Tensors:
    """One tensor of a residual block by their names: three where it packs q, k and v."""
    found = re.fullmatch(rf"(visual\.)?{OUR_BLOCK}", name)
    if found is None:
        raise ValueError(f"transformers' CLIP has no place for '{name}'")
    side = "vision_model" if found[1] else "text_model"
    layer, rest = f"{side}.encoder.layers.{found[2]}", found[3]
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        parts = zip("qkv", value.chunk(3), strict=True)
        return {f"{layer}.self_attn.{one}_proj.{kind}": part.contiguous() for one, part in parts}
    for theirs, ours in BLOCK.items():
        if rest.startswith(f"{ours}."):
            return {f"{layer}.{theirs}{rest.removeprefix(ours)}": value}
    raise ValueError(f"transformers' CLIP has no place for '{name}'")
