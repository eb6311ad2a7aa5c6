"""Zero-shot classification heads from the text tower."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.models.backbone import Backbone


@functools.cache
def tokenizer(context_length: int) -> Any:
    """open_clip's own byte-pair tokenizer, from its package data."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)


def zero_shot_head(
    clip_state: Mapping[str, Tensor],
    backbone: Backbone,
    classnames: Sequence[str],
    templates: Sequence[str],
) -> Tensor:
    """Prompt ensemble (CLIP, Radford et al. 2021, section 3.1.4).

    Args:
        clip_state: Full CLIP state dict.
        backbone: Whose architecture and logit scale hold.
        classnames: C names.
        templates: Prompts with "{}" in the name's place.

    Returns:
        (C,D): the mean of a class's unit prompt embeddings, made a unit vector again, times
        `backbone.logit_scale`.
    """
    import torch
    from torch.nn.functional import normalize

    model = backbone.build(seed=0)
    model.load_state_dict(dict(clip_state), strict=True)
    tokens = tokenizer(int(backbone.model["text_cfg"]["context_length"]))
    prompts = [template.replace("{}", name) for name in classnames for template in templates]
    with torch.no_grad():
        units = normalize(model.eval().encode_text(tokens(prompts)), dim=-1)
        means = units.view(len(classnames), len(templates), -1).mean(1)
        return normalize(means, dim=-1) * backbone.logit_scale


def logits(features: Tensor, head: Tensor) -> Tensor:
    """Cosine similarities of features (B,D) and classes (C,D) times the head's scale, (B,C)."""
    from torch.nn.functional import normalize

    return normalize(features, dim=-1) @ head.T
