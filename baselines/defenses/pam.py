"""Path-aware minimisation (Min et al., NeurIPS 2024), without its reconstructed triggers."""

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
class PathAware:
    """Fine-tuning with the gradient taken nearer to the backdoored model.

    With θ the present and θ_m the undefended weights, the step takes the gradient at
    θ - rho (θ - θ_m)/|θ - θ_m|, restores θ and steps there; while θ = θ_m nothing is displaced. One
    pass per image and step: there is no ascent. Once |θ - θ_m| < rho the point lies beyond θ_m.

    The displacement, normalised over all weights together, is that of the authors' released code
    for "Uncovering, Explaining, and Mitigating the Superficial Safety of Backdoor Defense". Ours:
    rho, AdamW in place of their SGD, and clean images only. They give a fifth of every
    batch a trigger that another method (BTI-DBF) reconstructed, with true labels; so this is their
    optimiser, not their whole pipeline. Data, selection and schedule are those of plain fine-tuning
    (`ft`).

    Attributes:
        rho: length of the displacement in weights.
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
        return fine_tuned(model, experts, tuning_of(self), self.gradient, 1, ctx)

    def gradient(self, weights: StateDict, start: StateDict, gradient_at: GradientAt) -> Tensors:
        """The gradient at weights pulled back towards the undefended ones."""
        from benchmark.optimisation.sam import displacement, moved

        gone = {name: value - start[name] for name, value in weights.items()}
        return gradient_at(moved(weights, displacement(gone, -self.rho)))
