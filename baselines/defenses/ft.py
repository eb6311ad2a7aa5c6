"""Plain fine-tuning of the merged encoder on clean images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.optimisation.tuning import (
    GradientAt,
    Keep,
    Optimiser,
    Supervision,
    fine_tuned,
    tuning_of,
)
from benchmark.types import Expert, Grant, Merge, Model, Place, StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class FineTune:
    """Cross-entropy on dev images of all tasks, each through its own frozen head.

    One step takes one batch from each task and averages their losses with equal weights. At
    `checks` evenly spaced points the selection third is looked at. With labels the most accurate
    point is returned, the earliest of equals, and the merge itself takes part. With pseudo-labels
    the criterion is agreement with the undefended model, 1 at the start; on the development setting
    its best later point was the least trained one. The options therefore keep the last point there,
    and the rate bounds the damage.
    BackdoorBench's optimiser (SGD, rate 0.01, 100 epochs) was set for another network; here AdamW
    and a cosine take its place, and its own values are an option.

    Attributes:
        supervision: "labels", or "pseudo": the undefended merged model's own predictions.
        optimiser: "adamw" or "sgd".
        lr: peak learning rate, then a cosine.
        momentum: of "sgd"; "adamw" takes no notice.
        weight_decay: its weight decay.
        warmup: share of the steps with a rising learning rate.
        label_smoothing: share of the target that is spread over all classes.
        batch: images per task and step.
        checks: how often the selection images are looked at.
        keep: which of these points is returned, "best" or "last".
        images: dev images per task, labelled where `supervision` is "labels".
        passes: image passes, labelling and selection included; they fix the number of steps.
    """

    version: ClassVar[int] = 2
    place: ClassVar[Place] = "after"
    supervision: Supervision
    optimiser: Optimiser
    lr: Annotated[float, Field(gt=0, le=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    batch: Annotated[int, Field(ge=1)]
    checks: Annotated[int, Field(ge=1, le=1000)]
    keep: Keep
    images: Annotated[int, Field(ge=3)]
    passes: Annotated[int, Field(ge=0)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Dev images, with labels or without."""
        return (tuning_of(self).grant,)

    def accepts(self, merge: Merge) -> str | None:
        """Any merge."""
        return None

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Fine-tune the merged encoder for as many steps as `passes` pays for."""
        model = merge(base, experts, ctx)
        return fine_tuned(model, experts, tuning_of(self), _plain, 1, ctx)


def _plain(weights: StateDict, start: StateDict, gradient_at: GradientAt) -> Tensors:
    """The gradient at the present weights."""
    return gradient_at(weights)
