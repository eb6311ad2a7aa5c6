"""Fine-tuning of a merged encoder on clean images: what the defences that only fine-tune share.

One step takes one batch from each task, each through its own frozen head, and averages their losses
with equal weights; only the encoder moves. Two thirds of the dev images train, one third selects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from benchmark.selection import (
    FORWARD,
    count_images,
    dev_parts,
    mean_accuracy,
    passes_used,
    predict_tasks,
)
from benchmark.types import Expert, Grant, Images, Model, StateDict, Tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.optim import Optimizer

    from benchmark.context import Context

Supervision = Literal["labels", "pseudo"]
Optimiser = Literal["adamw", "sgd"]
Keep = Literal["best", "last"]
GradientAt: TypeAlias = "Callable[[StateDict], Tensors]"
"""Weights -> gradient of the loss of this step's batches there; costs one pass per image."""
Rule: TypeAlias = "Callable[[StateDict, StateDict, GradientAt], Tensors]"
"""(present weights, undefended weights, gradient) -> what the optimiser is given as gradient."""


@dataclass(frozen=True)
class Tuning:
    """Values that every fine-tuning defence has.

    Attributes:
        supervision: "labels": the true ones. "pseudo": no labels are granted; the undefended
            merged model's own predictions stand in, in training and in selection.
        optimiser: "adamw", or "sgd" with momentum; both as torch has them.
        lr: peak learning rate; a linear warm-up, then a cosine to zero, step by step.
        momentum: of "sgd"; "adamw" keeps its (0.9, 0.999).
        weight_decay: decoupled in "adamw", part of the gradient in "sgd".
        warmup: share of the steps with a rising learning rate.
        label_smoothing: share of the target that is spread over all classes.
        batch: images per task and step.
        checks: how often the selection images are looked at.
        keep: which of these points is returned. "best": by accuracy on the selection third, or
            with pseudo-labels by agreement with the undefended model; the earliest of equals. The
            undefended model takes part only with labels: its agreement is 1. "last": the end.
        images: dev images per task.
        passes: image passes, pseudo-labels and selection included; they fix the number of steps.
    """

    supervision: Supervision
    optimiser: Optimiser
    lr: float
    momentum: float
    weight_decay: float
    warmup: float
    label_smoothing: float
    batch: int
    checks: int
    keep: Keep
    images: int
    passes: int

    @property
    def grant(self) -> Grant:
        """Dev images, labelled only where labels are used."""
        return Grant("dev", labels=self.supervision == "labels", per_task=self.images)

    def steps(self, train: Mapping[str, Images], select: Mapping[str, Images], each: int) -> int:
        """Steps that the passes left by labelling and selection pay for.

        Args:
            train: by task; what one step draws its batches from.
            select: by task; looked at `checks` + 1 times, the undefended model's look included.
            each: gradients per step.
        """
        left = self.passes - FORWARD * (self.checks + 1) * count_images(select)
        if self.supervision == "pseudo":
            left -= FORWARD * count_images(train)
        price = each * sum(min(self.batch, len(part.images)) for part in train.values())
        return max(int(left // price), 0)


def tuning_of(part: Any) -> Tuning:
    """The shared values of a fine-tuning defence."""
    return Tuning(**{field.name: getattr(part, field.name) for field in fields(Tuning)})


def fine_tuned(
    model: Model, experts: Sequence[Expert], tuning: Tuning, rule: Rule, each: int, ctx: Context
) -> Model:
    """The merged model with its encoder fine-tuned for as many steps as `passes` pays for.

    Args:
        model: the undefended merge; not changed.
        experts: whose tasks take part.
        tuning: the shared values.
        rule: makes a step's gradient.
        each: how often `rule` asks for a gradient: the price of an image and step.
        ctx: the defender's view.
    """
    before = passes_used(ctx.encoder)
    tasks = list(dict.fromkeys(expert.task for expert in experts))
    train, select = dev_parts(ctx, tasks, tuning.grant)
    seen = count_images(train) + count_images(select)
    steps = tuning.steps(train, select, each)
    weights, curve = dict(model.encoder), []
    if steps:
        if tuning.supervision == "pseudo":
            train, select = (relabelled(ctx, weights, part) for part in (train, select))
        weights, curve = _descend(weights, train, select, steps, tuning, rule, ctx)
    info = {
        "steps": steps,
        "agreement" if tuning.supervision == "pseudo" else "accuracy": curve,
        "images": seen,
        "labels": seen if tuning.grant.labels else 0,
        "passes": passes_used(ctx.encoder) - before,
        "merge": dict(model.info),
    }
    return replace(model, encoder=weights, info=info)


def relabelled(ctx: Context, weights: StateDict, parts: Mapping[str, Images]) -> dict[str, Images]:
    """The same images, labelled by what `weights` predict; costs one forward pass per image."""
    found = predict_tasks(ctx, weights, parts)
    return {task: Images(part.images, found[task]) for task, part in parts.items()}


def optimiser_of(tuning: Tuning, weights: Sequence[Tensor]) -> Optimizer:
    """AdamW or SGD, as torch has them, on these tensors."""
    import torch

    if tuning.optimiser == "adamw":
        return torch.optim.AdamW(weights, lr=tuning.lr, weight_decay=tuning.weight_decay)
    return torch.optim.SGD(
        weights, lr=tuning.lr, momentum=tuning.momentum, weight_decay=tuning.weight_decay
    )


def _descend(
    start: StateDict,
    train: Mapping[str, Images],
    select: Mapping[str, Images],
    steps: int,
    tuning: Tuning,
    rule: Rule,
    ctx: Context,
) -> tuple[Tensors, list[list[float]]]:
    """The selected weights, and the (step, selection criterion) they were selected by."""
    import torch

    from benchmark.training import cosine_rate

    moving = {n: value.clone() for n, value in start.items() if value.is_floating_point()}
    optimiser = optimiser_of(tuning, list(moving.values()))
    batches = {task: ctx.rng("batches", task) for task in train}
    points = {round(part * steps / tuning.checks) for part in range(1, tuning.checks + 1)}
    best, curve, bar = _first(ctx, start, select, tuning)
    for step in range(1, steps + 1):
        rows = {
            task: torch.randperm(len(part.images), generator=batches[task])[: tuning.batch]
            for task, part in train.items()
        }
        losses: list[Tensor] = []
        found = rule(moving, start, _gradient_at(start, train, rows, tuning, ctx, losses))
        ctx.watch(step - 1, {"loss": losses[0]})  # where a rule asks first
        for name, value in moving.items():
            value.grad = found[name]
        optimiser.param_groups[0]["lr"] = cosine_rate(tuning.lr, tuning.warmup, step - 1, steps)
        optimiser.step()
        ctx.progress(step, steps)
        if step in points:
            curve.append([step, mean_accuracy(ctx, {**start, **moving}, select)])
            if tuning.keep == "last" or curve[-1][1] > bar:
                bar = curve[-1][1]
                best = {name: moving.get(name, value).clone() for name, value in start.items()}
    return best, curve


def _first(
    ctx: Context, start: StateDict, select: Mapping[str, Images], tuning: Tuning
) -> tuple[Tensors, list[list[float]], float]:
    """The undefended weights, their point of the curve, and what a later point must exceed."""
    if tuning.supervision == "pseudo":
        return dict(start), [[0, 1.0]], -1.0
    accuracy = mean_accuracy(ctx, start, select)
    return dict(start), [[0, accuracy]], accuracy


def _gradient_at(
    start: StateDict,
    train: Mapping[str, Images],
    rows: Mapping[str, Tensor],
    tuning: Tuning,
    ctx: Context,
    losses: list[Tensor],
) -> GradientAt:
    """The gradient of the mean over tasks of the cross-entropy on these rows; `losses` grows."""
    import torch

    from benchmark.models.heads import logits

    def gradient(weights: StateDict) -> Tensors:
        leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
        total: list[Tensor] = []
        found: list[Tensor] = []
        for task, part in train.items():
            assert part.labels is not None  # granted, or the undefended model's predictions
            chosen = rows[task].to(part.labels.device)
            with torch.enable_grad():
                features = ctx.encoder({**start, **leaves}, part.images[chosen])
                loss = torch.nn.functional.cross_entropy(
                    logits(features, ctx.classifier(task)),
                    part.labels[chosen],
                    label_smoothing=tuning.label_smoothing,
                )
                parts = torch.autograd.grad(loss / len(train), list(leaves.values()))
            found.append(loss.detach())
            total = (
                [old + new for old, new in zip(total, parts, strict=True)] if total else list(parts)
            )
        losses.append(torch.stack(found).mean())
        return dict(zip(leaves, total, strict=True))

    return gradient
