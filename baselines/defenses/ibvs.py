"""Injection BV Subtraction (arXiv 2510.08016): plant a backdoor of one's own and subtract it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.algebra import add, norm, task_vector
from benchmark.attacks.poison import poisoned, poisoned_rows
from benchmark.attacks.triggers import Patch, Spot, image_side, place_of, white
from benchmark.components import component, identity
from benchmark.errors import BenchError, nearest
from benchmark.selection import FORWARD, count_images, dev_parts, mean_accuracy, passes_used
from benchmark.types import Expert, Grant, Images, Merge, Model, Place, StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class Ibvs:
    """θ_m - λ BV, where the backdoor vector BV = θ_poisoned - θ_clean is made by the defender.

    The defender fine-tunes the base twice on its dev images of one task, with the same batches:
    once clean, once with a white square and relabelled images. λ is the largest of a grid that
    costs at most `max_drop` of accuracy on the selection third of all tasks. The paper's trigger,
    task and λ could not be read; all are ours, and so is the rule for λ.

    Attributes:
        task: the task with the defender's own backdoor.
        target: its target class.
        trigger_place: where its white square sits.
        trigger_size: side of the square in pixels.
        rate: share of its training images that is poisoned.
        scales: the values of λ that are tried; 0, the undefended merge, is always allowed.
        max_drop: largest loss of accuracy in [0,1], averaged over tasks.
        images: labelled dev images per task.
        passes: image passes for both fine-tunes and the selection together.
    """

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"
    task: str
    target: Annotated[int, Field(ge=0)]
    trigger_place: Spot
    trigger_size: Annotated[int, Field(ge=1, le=1024)]
    rate: Annotated[float, Field(gt=0, le=1)]
    scales: Annotated[tuple[Annotated[float, Field(ge=0, le=100)], ...], Field(min_length=1)]
    max_drop: Annotated[float, Field(ge=0, le=1)]
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
        """Subtract as much of the defender's own backdoor vector as clean accuracy allows."""
        tasks = list(dict.fromkeys([*(expert.task for expert in experts), self.task]))
        if self.task not in ctx.visible:
            raise BenchError(
                f"defense.task={self.task} is no task{nearest(self.task, ctx.visible)}"
            )
        model = merge(base, experts, ctx)
        train, select = dev_parts(ctx, tasks, self.needs[0])
        left = self.passes - FORWARD * (len(self.scales) + 1) * count_images(select)
        vector, made = self.backdoor_vector(base, train[self.task], left / 2, ctx)
        before = passes_used(ctx.encoder)
        chosen, curve = 0.0, []
        if made["steps"]:
            chosen, curve = self._choose(model.encoder, vector, select, ctx)
        info = {
            "chosen_scale": chosen,
            "accuracy": curve,
            "vector_norm": norm(vector),
            "steps": made["steps"],
            "images": count_images(train) + count_images(select),
            "passes": made["passes"] + passes_used(ctx.encoder) - before,
            "merge": dict(model.info),
        }
        return replace(model, encoder=add(model.encoder, vector, -chosen), info=info)

    def backdoor_vector(
        self, base: StateDict, images: Images, passes: float, ctx: Context
    ) -> tuple[Tensors, dict[str, Any]]:
        """BV in float64 and what it took; one stage, shared by all merges.

        Args:
            base: weights that both fine-tunes start from.
            images: the training two thirds of the task's dev images.
            passes: image passes for each of the two fine-tunes; they fix the number of steps.
            ctx: the defender's view.
        """
        batch = min(ctx.recipe.batch, len(images.images))
        steps = max(int(passes // batch), 0)
        if steps == 0:
            return task_vector(base, base), {"steps": 0, "passes": 0.0}
        row, col = place_of(self.trigger_place, self.trigger_size, image_side(base))
        trigger = Patch(white(self.trigger_size), row, col)
        inputs = {
            "task": self.task,
            "target": self.target,
            "box": [self.trigger_size, row, col],
            "rate": self.rate,
            "images": len(images.images),
            "recipe": identity(ctx.recipe),
            "steps": steps,
        }

        def make() -> tuple[Tensors, dict[str, Any]]:
            before = passes_used(ctx.encoder)
            vector = self._made(base, images, trigger, steps, ctx)
            return vector, {"steps": steps, "passes": passes_used(ctx.encoder) - before}

        tensors, info = ctx.stage("backdoor_vector", 1, inputs, make)
        return {name: value.to(ctx.device) for name, value in tensors.items()}, info

    def _made(
        self, base: StateDict, images: Images, trigger: Patch, steps: int, ctx: Context
    ) -> Tensors:
        from benchmark.training import finetune

        head = ctx.heads[self.task]
        if self.target >= len(head):
            raise BenchError(
                f"defense.target={self.target}: task '{self.task}' has classes 0 to {len(head) - 1}"
            )
        # A recipe takes whole epochs; fewer images make one epoch no longer than `steps`.
        rows = steps * ctx.recipe.batch
        images = Images(
            images.images[:rows], None if images.labels is None else images.labels[:rows]
        )
        assert images.labels is not None  # granted with labels
        chosen = poisoned_rows(images.labels, self.rate, self.target, True, ctx.rng("poison"))
        bad = poisoned(images, chosen, trigger, self.target)
        recipe = replace(ctx.recipe, epochs=1, min_steps=steps)
        clean, backdoored = (
            finetune(
                ctx.encoder, base, head, data.images, labels, recipe, ctx.rng("finetune"),
                progress=ctx.progress, watch=ctx.watch,
            )
            for data, labels in ((images, images.labels), (bad, bad.labels))
            if labels is not None
        )  # fmt: skip
        return task_vector(backdoored, clean)

    def _choose(
        self, merged: StateDict, vector: Tensors, select: Mapping[str, Images], ctx: Context
    ) -> tuple[float, list[list[float]]]:
        """The largest λ within `max_drop`, and the accuracy at every λ."""
        undefended = mean_accuracy(ctx, merged, select)
        curve = [
            [scale, mean_accuracy(ctx, add(merged, vector, -scale), select)]
            for scale in sorted(self.scales)
        ]
        # 1e-9: an accuracy of exactly max_drop less must not fail by a rounding error.
        fine = [s for s, accuracy in curve if undefended - accuracy <= self.max_drop + 1e-9]
        return max(fine, default=0.0), [[0.0, undefended], *curve]
