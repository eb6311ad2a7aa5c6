"""Unlearn a universal prompt: the plain alternative to LFPM, with all of LFPM's own parts off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.optimisation.settings import Prompts
from benchmark.optimisation.unlearning import Unlearning, unlearned, unlearning_of
from benchmark.selection import FORWARD, count_images
from benchmark.types import Expert, Grant, Images, Merge, Model, Place, StateDict

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.optimisation.descent import Differentiate
    from benchmark.optimisation.prompts import Pool
    from benchmark.optimisation.unlabelled import Unlabelled


@component
class PromptUnlearning:
    """Fine-tune the merged encoder to disregard visual prompts that are mined as it changes.

    Every step takes a few ascent steps on each task's pool of universal prompts (towards their
    goals, at the present weights) and one descent step on
    CE(x+p) + w KL(undefended || present) on x. No feature partition, no feature term, no path (the
    end point only), no sharpness, no metric, no search of a scale: what is left of LFPM when its
    parts are off. It has no paper of its own.

    Attributes:
        prompts: the pool of each task and its ascent.
        first_steps: ascent steps before the first descent step, against the undefended model.
        ascent_steps: ascent steps before every descent step.
        clean_weight: w.
        lr: peak learning rate of AdamW.
        weight_decay: its weight decay.
        warmup: share of the steps with a rising learning rate.
        batch: images per task and descent step, each taken clean and prompted.
        checks: how often the selection images are looked at.
        slack: the latest point is kept whose agreement with the undefended model on the selection
            third is within this of the best trained point's.
        images: unlabelled dev images per task.
        passes: image passes, selection included; they fix the number of steps.
    """

    version: ClassVar[int] = 2
    place: ClassVar[Place] = "after"
    prompts: Prompts
    first_steps: Annotated[int, Field(ge=0, le=10_000)]
    ascent_steps: Annotated[int, Field(ge=0, le=1000)]
    clean_weight: Annotated[float, Field(ge=0, le=1000)]
    lr: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    batch: Annotated[int, Field(ge=1)]
    checks: Annotated[int, Field(ge=1, le=1000)]
    slack: Annotated[float, Field(ge=0, le=1)]
    images: Annotated[int, Field(ge=3)]
    passes: Annotated[int, Field(ge=0)]

    @property
    def _values(self) -> Unlearning:
        return unlearning_of(self, supervision="pseudo")

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Unlabelled dev images."""
        return (self._values.grant,)

    def accepts(self, merge: Merge) -> str | None:
        """Any merge."""
        return None

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Unlearn for as many steps as `passes` pays for."""
        from benchmark.optimisation.unlabelled import freeze

        model = merge(base, experts, ctx)

        def making(train: Mapping[str, Images], steps: int) -> Differentiate:
            return self._differentiate(model.encoder, freeze(ctx, model.encoder, train), ctx)

        return unlearned(
            model, experts, self._values, model.encoder, self.prices, making, dict, ctx
        )

    def prices(self, train: Mapping[str, Images]) -> tuple[float, float]:
        """Image passes for the undefended model's word and the first prompts, and of a step."""
        ascent = len(train) * self.prompts.batch
        first = FORWARD * count_images(train) + self.first_steps * ascent
        return first, self.ascent_steps * ascent + 2 * self.batch * len(train)

    def _differentiate(self, merged: StateDict, data: Unlabelled, ctx: Context) -> Differentiate:
        """The gradient of a descent step, after the ascent on the prompts."""
        from benchmark.optimisation.mining import mine
        from benchmark.optimisation.prompts import new_pool

        rng = ctx.rng("mining")
        pool = new_pool(self.prompts, data.classes, data.image_side, rng, ctx.device)
        pool = mine(ctx.encoder, merged, data, pool, self.first_steps, rng)

        def differentiate(weights: StateDict, step: int) -> None:
            nonlocal pool
            frozen = {name: value.detach() for name, value in weights.items()}
            pool = mine(ctx.encoder, frozen, data, pool, self.ascent_steps, rng)
            self._descend(weights, data, pool, step, ctx)

        return differentiate

    def _descend(
        self, weights: StateDict, data: Unlabelled, pool: Pool, step: int, ctx: Context
    ) -> None:
        """Leave the gradient of one batch, clean and prompted."""
        import torch
        from torch.nn.functional import kl_div

        from benchmark.optimisation.unlabelled import cross_entropy

        batch = data.draw(self.batch, ctx.rng("batch", step))
        given = pool.assign(batch.labels, ctx.rng("given", step))
        prompted = pool.apply(batch.images, given)
        features = ctx.encoder(weights, torch.cat([batch.images, prompted]))
        clean, moved = features.chunk(2)
        kept = [
            kl_div(scores.log_softmax(1), frozen, reduction="batchmean", log_target=True)
            for scores, frozen in zip(batch.logits(clean), batch.log_probs, strict=True)
        ]
        loss = cross_entropy(batch.logits(moved), batch.labels)
        (loss + self.clean_weight * torch.stack(kept).mean()).backward()
