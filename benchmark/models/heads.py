"""Zero-shot classification heads from the text tower, and the adapters that stand before them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmark.errors import BenchError

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


@dataclass(frozen=True, slots=True)
class Adapted:
    """A task's head behind the adapter that a model brings for this task; see `adapted`.

    Attributes:
        rows: (C,D), the zero-shot head.
        down: (r,D).
        up: (D,r).
    """

    rows: Tensor
    down: Tensor
    up: Tensor

    def __len__(self) -> int:
        """Number of classes, as of a head without an adapter."""
        return len(self.rows)

    @property
    def device(self) -> Any:
        """Where it lives."""
        return self.rows.device


Head: TypeAlias = "Tensor | Adapted"
"""What turns features into scores: (C,D) rows times the logit scale, or these behind an adapter."""


def behind(head: Tensor, adapter: Mapping[str, Tensor] | None) -> Head:
    """A task's head as a model with this adapter of the task uses it; None: the head itself."""
    if adapter is None:
        return head
    shapes = {name: tuple(value.shape) for name, value in adapter.items()}
    rank, width = shapes.get("down", (0, 0))
    if shapes != {"down": (rank, head.shape[1]), "up": (width, rank)} or width != head.shape[1]:
        raise BenchError(
            f"an adapter has down (r,{head.shape[1]}) and up ({head.shape[1]},r), not {shapes}"
        )
    return Adapted(head, adapter["down"], adapter["up"])


def adapted(features: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Features (B,D) without the bias that an adapter finds: f - up relu(down f), not normalised.

    Representation Surgery (Yang et al., ICML 2024); with `up` = 0 the identity.
    """
    return features - (features @ down.T).relu() @ up.T


def logits(features: Tensor, head: Head) -> Tensor:
    """Cosine similarities of features (B,D) and classes (C,D) times the head's scale, (B,C)."""
    from torch.nn.functional import normalize

    if isinstance(head, Adapted):
        features, head = adapted(features, head.down, head.up), head.rows
    return normalize(features, dim=-1) @ head.T
