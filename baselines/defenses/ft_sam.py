"""Fine-tuning with sharpness-aware minimisation (FT-SAM, Zhu et al., ICCV 2023)."""

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
class FtSam:
    """Fine-tuning with the gradient taken where the loss has been raised.

    g is the gradient at the present weights; the step takes the gradient on the same batches at
    weights moved by rho g/|g|, or in the adaptive form by rho T²g/|T g| with T = diag(|w|). Two
    passes per image and step. Data, selection and schedule are those of plain fine-tuning (`ft`).

    The paper's network has batch normalisation and one head; ours has neither. BackdoorBench's
    `--adaptive` switches the adaptive form *off*: it is on unless asked otherwise. A plain rho of 2
    is about as long as the whole backdoor of a merged ViT-B/32, so the two forms are options of
    their own.

    Attributes:
        adaptive: the adaptive form (ASAM, Kwon et al. 2021).
        rho: length of the displacement in weights; in the adaptive form relative to the weights.
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

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"
    adaptive: bool
    rho: Annotated[float, Field(ge=0, le=100)]
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
        return fine_tuned(model, experts, tuning_of(self), self.gradient, 2, ctx)

    def gradient(self, weights: StateDict, start: StateDict, gradient_at: GradientAt) -> Tensors:
        """The gradient at the displaced weights."""
        from benchmark.optimisation.sam import adaptive_displacement, displacement, moved

        ascent = gradient_at(weights)
        if self.adaptive:
            return gradient_at(moved(weights, adaptive_displacement(weights, ascent, self.rho)))
        return gradient_at(moved(weights, displacement(ascent, self.rho)))
