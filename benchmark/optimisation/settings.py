"""How visual prompts are drawn and mined: the values, without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmark.components import component

Count = Annotated[int, Field(ge=0, le=256)]
Pixels = Annotated[int, Field(ge=1, le=1024)]


@component
class Prompts:
    """A pool of prompts per task and the ascent that mines them.

    A pool has `frames + fulls + patches` members per goal; each image is given one of them.

    Attributes:
        frames: members that add to a border and clip to valid pixels (Bahng et al. 2022, there
            without clipping).
        fulls: members that add to the whole image within an L-infinity ball.
        patches: members that replace a small square, each of a size of its own.
        goal: "away": one goal per task, away from the prediction, towards no class in particular;
            "class": a goal per class of the task, which images already predicted so never get.
        focus: for "class": goals are drawn with odds of the mean success of their members so far to
            this power; 0: all alike.
        aim: for "class": the same for a goal's members and their places among themselves.
        places: of the squares. "fixed": each in a cell of its own, of a grid over the image;
            "moving": its content is pasted anew for every image, anywhere on a grid of `stride`
            pixels. The squares of a goal have different offsets on that grid, evenly spread.
        stride: of that grid, in pixels (an encoder's patch size is a natural one).
        frame_width: of the border, in pixels (30 of 224 in Bahng et al.).
        bound: radius of the ball of `fulls`, in units of the pixel range [0,1].
        patch_size: smallest and largest side of the squares, in pixels.
        start: prompts start uniform in this share of their range; patches in all of it.
        optimiser: "adam", or "sign" of the gradient; both keep to each member's range.
        lr: step, as a share of half of a member's range.
        batch: images per task and ascent step.
        temperature: divides the logits under the cross-entropy, so that it does not saturate.
    """

    frames: Count
    fulls: Count
    patches: Count
    goal: Literal["away", "class"]
    focus: Annotated[float, Field(ge=0, le=8)]
    aim: Annotated[float, Field(ge=0, le=8)]
    places: Literal["fixed", "moving"]
    stride: Pixels
    frame_width: Pixels
    bound: Annotated[float, Field(gt=0, le=1)]
    patch_size: tuple[Pixels, Pixels]
    start: Annotated[float, Field(ge=0, le=1)]
    optimiser: Literal["adam", "sign"]
    lr: Annotated[float, Field(gt=0, le=2)]
    batch: Annotated[int, Field(ge=1, le=1024)]
    temperature: Annotated[float, Field(gt=0)]

    def __post_init__(self) -> None:
        """Refuse an empty pool and a range of sizes that is none."""
        if self.members == 0:
            raise ValueError("frames, fulls and patches are all 0; give at least one member")
        if self.patch_size[0] > self.patch_size[1]:
            raise ValueError(
                f"patch_size={list(self.patch_size)}: smallest side first, then the largest"
            )

    @property
    def members(self) -> int:
        """Of a goal."""
        return self.frames + self.fulls + self.patches
