"""Plain fine-tuning of the merged encoder on clean labelled images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.selection import FORWARD, count_images, dev_parts, mean_accuracy, passes_used
from benchmark.types import Expert, Grant, Images, Merge, Model, Place, StateDict, Tensors

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context


@component
class FineTune:
    """Cross-entropy on labelled dev images of all tasks, each through its own frozen head.

    One step takes one batch from each task and averages their losses with equal weights. The best
    of `checks` + 1 evenly spaced points (the merge itself included) on the selection third is
    returned, the earliest of equals. BackdoorBench's optimiser (SGD, rate 0.01, 100 epochs) was set
    for another network; AdamW and a cosine take its place.

    Attributes:
        lr: peak learning rate of AdamW.
        weight_decay: its weight decay.
        warmup: share of the steps with a rising learning rate.
        batch: images per task and step.
        checks: how often the selection images are looked at.
        images: labelled dev images per task.
        passes: image passes, selection included; they fix the number of steps.
    """

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"
    lr: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    batch: Annotated[int, Field(ge=1)]
    checks: Annotated[int, Field(ge=1, le=1000)]
    images: Annotated[int, Field(ge=3)]
    passes: Annotated[int, Field(ge=0)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Labelled dev images."""
        return (Grant("dev", labels=True, per_task=self.images),)

    def accepts(self, merge: Merge) -> str | None:
        """Any merge."""
        return None

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Fine-tune the merged encoder for as many steps as `passes` pays for."""
        model = merge(base, experts, ctx)
        before = passes_used(ctx.encoder)
        tasks = list(dict.fromkeys(expert.task for expert in experts))
        train, select = dev_parts(ctx, tasks, self.needs[0])
        steps = self.steps(train, select)
        encoder, curve = self._train(model.encoder, train, select, steps, ctx)
        info = {
            "steps": steps,
            "accuracy": curve,
            "images": count_images(train) + count_images(select),
            "passes": passes_used(ctx.encoder) - before,
            "merge": dict(model.info),
        }
        return replace(model, encoder=encoder, info=info)

    def steps(self, train: Mapping[str, Images], select: Mapping[str, Images]) -> int:
        """Steps that the passes left by the selection pay for."""
        left = self.passes - FORWARD * (self.checks + 1) * count_images(select)
        price = sum(min(self.batch, len(part.images)) for part in train.values())
        return max(int(left // price), 0)

    def _train(
        self,
        start: StateDict,
        train: Mapping[str, Images],
        select: Mapping[str, Images],
        steps: int,
        ctx: Context,
    ) -> tuple[Tensors, list[list[float]]]:
        """The selected weights and the (step, selection accuracy) they were selected by."""
        import torch

        from benchmark.training import cosine_rate

        weights = {name: value.detach().clone() for name, value in start.items()}
        if steps == 0:
            return weights, []
        moving = [value.requires_grad_() for value in weights.values() if value.is_floating_point()]
        optimiser = torch.optim.AdamW(moving, lr=self.lr, weight_decay=self.weight_decay)
        batches = {task: ctx.rng("batches", task) for task in train}
        points = {round(part * steps / self.checks) for part in range(self.checks + 1)}
        curve: list[list[float]] = []
        best, best_accuracy = weights, -1.0
        for step in range(steps + 1):
            if step in points:
                accuracy = mean_accuracy(ctx, weights, select)
                curve.append([step, accuracy])
                if accuracy > best_accuracy:
                    best = {name: value.detach().clone() for name, value in weights.items()}
                    best_accuracy = accuracy
            if step < steps:
                optimiser.param_groups[0]["lr"] = cosine_rate(self.lr, self.warmup, step, steps)
                optimiser.zero_grad()
                for task, part in train.items():
                    rows = torch.randperm(len(part.images), generator=batches[task])[: self.batch]
                    (_loss(weights, task, part, rows, ctx) / len(train)).backward()
                optimiser.step()
                ctx.progress(step + 1, steps)
        return best, curve


def _loss(weights: StateDict, task: str, part: Images, rows: Tensor, ctx: Context) -> Tensor:
    """Cross-entropy of some rows of one task's labelled images."""
    from torch.nn.functional import cross_entropy

    from benchmark.models.heads import logits

    assert part.labels is not None  # granted with labels
    rows = rows.to(part.labels.device)
    scores = logits(ctx.encoder(weights, part.images[rows]), ctx.heads[task])
    return cross_entropy(scores, part.labels[rows])
