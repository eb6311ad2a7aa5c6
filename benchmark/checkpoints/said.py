"""What a checkpoint tells of its model beside the numbers: activation, heads, preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from benchmark.checkpoints.inert import Made
from benchmark.checkpoints.tree import mapping_of, objects, state_of

ACTIVATIONS = {"quick_gelu": "quickgelu", "quickgelu": "quickgelu", "gelu": "gelu"}
"""Names in configurations -> ours; "gelu" is the exact one (nn.GELU)."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is told; None or empty: nothing.

    Attributes:
        activation: "quickgelu" or "gelu", of the residual blocks.
        heads: attention heads of the image tower's blocks.
        mean: channel means of the images it was trained on, in [0,1].
        std: their standard deviations.
        classes: classes a whole-model pickle is made of; none was looked up.
    """

    activation: str | None = None
    heads: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()

    def over(self, other: Said) -> Said:
        """This, and from `other` what this does not tell."""
        told = {one.name: getattr(self, one.name) for one in fields(self)}
        return replace(other, **{name: value for name, value in told.items() if value})


def said_by_tree(root: Any) -> Said:
    """What a whole-model pickle tells: its activation module, heads and Normalize transform."""
    classes, activations = set[str](), set[str]()
    heads: list[tuple[int, int]] = []
    told: dict[str, Any] = {}
    for made in objects(root):
        state = state_of(made)
        if "_modules" in state:
            classes.add(str(made.maker))
        if made.maker.name in ("QuickGELU", "GELU"):
            activations.add(made.maker.name.lower())
        if made.maker.name == "MultiheadAttention" and type(state.get("num_heads")) is int:
            heads.append((_width(state), state["num_heads"]))
        if made.maker.name == "Normalize":
            told |= {n: found for n in ("mean", "std") if (found := _channels(state.get(n)))}
    return Said(
        # The image tower is the wider of the two in every CLIP that was published.
        activation=activations.pop() if len(activations) == 1 else None,
        heads=max(heads)[1] if heads else None,
        classes=tuple(sorted(classes)),
        **told,
    )


def said_by_config(config: Mapping[str, Any]) -> Said:
    """What transformers' config.json or open_clip's open_clip_config.json tells."""
    if model := mapping_of(config.get("model_cfg")):
        seen = mapping_of(config.get("preprocess_cfg")) or {}
        return Said(
            activation="quickgelu" if model.get("quick_gelu") else "gelu",
            mean=_channels(seen.get("mean")),
            std=_channels(seen.get("std")),
        )
    vision = mapping_of(config.get("vision_config")) or config
    heads, name = vision.get("num_attention_heads"), vision.get("hidden_act")
    if name is None and "vision_config" in config:
        name = "quick_gelu"  # what transformers takes for a CLIP that does not say
    return Said(
        activation=ACTIVATIONS.get(str(name)),
        heads=heads if type(heads) is int else None,
    )


def _width(state: Mapping[Any, Any]) -> int:
    width = state.get("embed_dim")
    return width if type(width) is int else 0


def _channels(value: Any) -> tuple[float, ...] | None:
    """Three numbers, or None."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    if any(isinstance(one, Made) or not isinstance(one, int | float) for one in value):
        return None
    return tuple(float(one) for one in value)
