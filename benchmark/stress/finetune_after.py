"""A short, benign fine-tune of a defended model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.types import Actor, Expert, Grant, Images, Model, StateDict, Stressed, Threat

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context

TRAIN = Grant("train", labels=True)


@component
class FinetuneAfter:
    """A user fine-tunes the defended model on clean, labelled training images of some tasks.

    The loss is the mean over tasks of the cross-entropy against the frozen zero-shot heads;
    optimiser, peak rate, schedule and clipping are the contributors' recipe. A defence that hid the
    backdoor rather than removed it may lose its effect within a few steps. [ours]

    Attributes:
        tasks: the tasks; null: all that are merged.
        steps: of the optimiser; 0 changes nothing.
        batch: images per step, shared evenly by the tasks (at least one each).
    """

    version: ClassVar[int] = 1
    actor: ClassVar[Actor] = "user"
    tasks: Annotated[tuple[str, ...], Field(min_length=1)] | None
    steps: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Labelled training images."""
        return (TRAIN,)

    @property
    def named(self) -> tuple[str, ...]:
        """Those that are named."""
        return self.tasks or ()

    def accepts(self, threats: Sequence[Threat]) -> str | None:
        """Any threats."""
        return None

    def __call__(
        self,
        model: Model,
        base: StateDict,
        experts: Sequence[Expert],
        threats: tuple[Threat, ...],
        ctx: Context,
    ) -> Stressed:
        """Fine-tune; triggers stay as they are."""
        if self.steps == 0:
            return Stressed(model, threats)
        tasks = self.tasks or tuple(expert.task for expert in experts)
        data = {task: ctx.images(task, TRAIN) for task in tasks}
        weights, losses = self._tuned(model.encoder, data, ctx)
        info = {"loss_first": losses[0], "loss_last": losses[-1]}
        return Stressed(replace(model, encoder=weights), threats, info)

    def _tuned(
        self, start: StateDict, data: dict[str, Images], ctx: Context
    ) -> tuple[dict[str, Tensor], list[float]]:
        """The weights after `steps`, and the loss of every step."""
        import torch

        recipe, losses = ctx.recipe, []
        weights = {name: value.detach().clone() for name, value in start.items()}
        leaves = [value.requires_grad_() for value in weights.values() if value.is_floating_point()]
        optimiser = torch.optim.AdamW(leaves, lr=recipe.lr, weight_decay=recipe.weight_decay)
        share = max(self.batch // len(data), 1)
        rows = {task: _rows(part, share, task, ctx) for task, part in data.items()}
        for step in range(self.steps):
            loss = torch.stack(
                [_loss(weights, part, next(rows[task]), task, ctx) for task, part in data.items()]
            ).mean()
            optimiser.param_groups[0]["lr"] = recipe.rate(step, self.steps)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(leaves, recipe.clip)
            optimiser.step()
            losses.append(loss.item())
            ctx.progress(step + 1, self.steps)
        return {name: value.detach() for name, value in weights.items()}, losses


def _loss(weights: StateDict, data: Images, rows: Tensor, task: str, ctx: Context) -> Tensor:
    from torch.nn.functional import cross_entropy

    from benchmark.models.heads import logits

    assert data.labels is not None  # TRAIN grants them
    scores = logits(ctx.encoder(weights, data.images[rows]), ctx.classifier(task))
    return cross_entropy(scores, data.labels[rows], label_smoothing=ctx.recipe.label_smoothing)


def _rows(data: Images, share: int, task: str, ctx: Context) -> Iterator[Tensor]:
    """Rows of one batch after the other, without repetition within an epoch; never ends."""
    import torch

    rng, size = ctx.rng("batches", task), min(share, len(data.images))
    while True:
        order = torch.randperm(len(data.images), generator=rng)
        yield from order[: len(order) // size * size].split(size)
