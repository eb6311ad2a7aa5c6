"""What defences that unlearn adversarial inputs share: data, budget, the kept point, the report.

Two thirds of the dev images train, one third selects. Tasks weigh equally.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmark.optimisation.tuning import Supervision, relabelled
from benchmark.selection import FORWARD, count_images, dev_parts, mean_accuracy, passes_used
from benchmark.types import Expert, Grant, Images, Model, StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.optimisation.descent import Differentiate

Prices: TypeAlias = "Callable[[Mapping[str, Images]], tuple[float, float]]"
"""Training images -> image passes before the first step, and of each step."""
Making: TypeAlias = "Callable[[Mapping[str, Images], int], Differentiate]"
"""(training images, steps) -> the gradient of a step; labels are the true ones where granted."""
Weights: TypeAlias = "Callable[[StateDict], Tensors]"
"""What moves -> the encoder it stands for."""


@dataclass(frozen=True)
class Unlearning:
    """Values that every unlearning defence has.

    Attributes:
        supervision: "labels": the true ones. "pseudo": no labels are granted; the undefended
            merged model's own predictions stand in, in training and in selection.
        lr: peak learning rate of AdamW.
        weight_decay: its weight decay.
        warmup: share of the steps with a rising learning rate.
        checks: how often the selection images are looked at after the start.
        slack: the latest point is kept whose accuracy (with "pseudo": agreement with the undefended
            model) on the selection third is within this of the best. The merge itself is one of the
            points with labels only.
        images: dev images per task.
        passes: image passes, pseudo-labels and selection included; they fix the number of steps.
    """

    supervision: Supervision
    lr: float
    weight_decay: float
    warmup: float
    checks: int
    slack: float
    images: int
    passes: int

    @property
    def grant(self) -> Grant:
        """Dev images, labelled only where labels are used."""
        return Grant("dev", labels=self.supervision == "labels", per_task=self.images)

    @property
    def criterion(self) -> str:
        """The name of the clean criterion."""
        return "accuracy" if self.supervision == "labels" else "agreement"


def unlearning_of(part: Any, **fixed: Any) -> Unlearning:
    """The shared values of a defence; `fixed` are those that its kind leaves no choice in."""
    names = [field.name for field in fields(Unlearning) if field.name not in fixed]
    return Unlearning(**{name: getattr(part, name) for name in names}, **fixed)


def unlearned(
    model: Model,
    experts: Sequence[Expert],
    values: Unlearning,
    start: StateDict,
    prices: Prices,
    making: Making,
    weights_of: Weights,
    ctx: Context,
) -> Model:
    """The merged model after as many steps as `passes` pays for; with none, the merge as it is.

    Args:
        model: the undefended merge; not changed.
        experts: whose tasks take part.
        values: the shared values.
        start: what moves.
        prices: what preparing and stepping cost.
        making: prepares the gradient; called only if there is a step.
        weights_of: the encoder to judge, and in the end to return.
        ctx: the defender's view.
    """
    from benchmark.optimisation.descent import Schedule, descend

    before = passes_used(ctx.encoder)
    tasks = list(dict.fromkeys(expert.task for expert in experts))
    train, select = dev_parts(ctx, tasks, values.grant)
    seen, selecting = count_images(train) + count_images(select), count_images(select)
    steps = _steps(values, prices(train), selecting)
    encoder: StateDict = {name: value.clone() for name, value in model.encoder.items()}
    curve: list[list[float]] = []
    if steps:
        if values.supervision == "pseudo":
            select = relabelled(ctx, model.encoder, select)
        kept, curve = descend(
            start,
            Schedule(values.lr, values.weight_decay, values.warmup, steps, values.checks),
            making(train, steps),
            lambda point: mean_accuracy(ctx, weights_of(point), select),
            *(values.slack, values.supervision == "labels", ctx.progress),
        )
        encoder = weights_of(kept)
    info = {
        "steps": steps,
        values.criterion: curve,
        "images": seen,
        "labels": seen * values.grant.labels,
        "passes": passes_used(ctx.encoder) - before,
        "merge": dict(model.info),
    }
    return replace(model, encoder=encoder, info=info)


def _steps(values: Unlearning, prices: tuple[float, float], select: int) -> int:
    """Steps that the passes left by preparation and selection pay for."""
    fixed, each = prices
    fixed += FORWARD * (values.checks + 1) * select
    if values.supervision == "pseudo":
        fixed += FORWARD * select
    return max(int((values.passes - fixed) // each), 0)
