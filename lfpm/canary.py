"""A check of LFPM's rule for lambda_a: a canary, a backdoor that the defender plants itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.triggers import Patch, Spot, image_side, place_of
from benchmark.components import component, role
from benchmark.errors import BenchError, nearest
from benchmark.selection import agreement, dev_parts, predictions
from benchmark.types import Expert, Grant, Images, Merge, Model, Place, StateDict
from lfpm.method import Lfpm

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.models.heads import Head
    from benchmark.training import ExtraLoss


@component
class Canary:
    """LFPM, and a measurement of what its choice of lambda_a does to a backdoor one knows.

    The defender fine-tunes a copy of the merged model on its own dev images of one task: the copy
    keeps its predictions, and a patch of noise sends images to one class. LFPM is then run on the
    copy as well, choosing lambda_a by the same rule. `info["canary"]` holds the canary's ASR before
    and after, on held-out dev images. The result is LFPM's on the merged model itself, untouched by
    the check, which takes as many passes again. No label is used: predictions of the merged model
    stand for them. [ours]

    Attributes:
        source: LFPM's own values.
        task: where the canary is planted.
        target: the class it leads to.
        spot: where its patch sits.
        size: side of the patch in pixels.
        steps: of the fine-tune.
        lr: its learning rate.
        weight: of the canary's loss beside that of the clean images.
    """

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"

    source: Lfpm
    task: str
    target: Annotated[int, Field(ge=0)]
    spot: Spot
    size: Annotated[int, Field(ge=1, le=1024)]
    steps: Annotated[int, Field(ge=1)]
    lr: Annotated[float, Field(gt=0, le=1)]
    weight: Annotated[float, Field(gt=0, le=1000)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """What LFPM may see."""
        return self.source.needs

    @property
    def passes(self) -> int:
        """LFPM's budget, twice; the canary's own fine-tune comes on top."""
        return 2 * self.source.passes

    def accepts(self, merge: Merge) -> str | None:
        """Every merge: only its result is used."""
        return self.source.accepts(merge)

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """LFPM's model, with what became of the canary in its info."""
        if self.task not in {expert.task for expert in experts}:
            known = [expert.task for expert in experts]
            raise BenchError(f"defense.task={self.task} is not merged{nearest(self.task, known)}")
        acting = ctx.narrowed(role=role("defense", self.source), granted=self.source.needs)
        merged = merge(base, experts, ctx)
        given: Any = lambda *_: merged  # noqa: E731
        model = self.source(given, base, experts, acting)
        train, held = dev_parts(ctx, [self.task], self.needs[0])
        trigger = self.trigger(base, ctx)
        planted = self.planted(merged.encoder, train[self.task], trigger, ctx)
        caged: Any = lambda *_: Model(planted)  # noqa: E731
        freed = self.source(caged, base, experts, acting)
        canary = {
            "asr_before": self.success(planted, merged.encoder, held[self.task], trigger, ctx),
            "asr_after": self.success(freed.encoder, merged.encoder, held[self.task], trigger, ctx),
            "floor": self.success(merged.encoder, merged.encoder, held[self.task], trigger, ctx),
            "agreement": self._agreement(planted, merged.encoder, held[self.task], ctx),
            "lambda_a": freed.info["lambda_a"],
        }
        return replace(model, info={**model.info, "canary": canary})

    def trigger(self, base: StateDict, ctx: Context) -> Patch:
        """A square of noise, drawn by the cell's seed."""
        import torch

        row, col = place_of(self.spot, self.size, image_side(base))
        noise = torch.randint(256, (3, self.size, self.size), generator=ctx.rng("canary"))
        return Patch(noise.float() / 255, row, col)

    def planted(
        self, merged: StateDict, images: Images, trigger: Patch, ctx: Context
    ) -> dict[str, Tensor]:
        """The merged model with the canary in it."""
        from benchmark.training import finetune

        head = ctx.classifier(self.task)
        if self.target >= len(head):
            raise BenchError(
                f"defense.target={self.target}: task '{self.task}' has classes 0 to {len(head) - 1}"
            )
        labels = predictions(ctx.features(merged, images.images), head)
        recipe = replace(ctx.recipe, epochs=1, min_steps=self.steps, lr=self.lr)
        return finetune(
            ctx.encoder,
            merged,
            head,
            images.images,
            labels,
            recipe,
            ctx.rng("canary batches"),
            extra_loss=self._loss(head, trigger, ctx),
            progress=ctx.progress,
        )

    def _loss(self, head: Head, trigger: Patch, ctx: Context) -> ExtraLoss:
        """Cross-entropy of the triggered batch to the target."""
        import torch
        from torch.nn.functional import cross_entropy

        from benchmark.models.heads import logits

        def loss(weights: StateDict, images: Tensor, labels: Tensor, step: int) -> Tensor:
            scores = logits(ctx.encoder(weights, trigger(images)), head)
            return self.weight * cross_entropy(scores, torch.full_like(labels, self.target))

        return loss

    def success(
        self, weights: StateDict, merged: StateDict, images: Images, trigger: Patch, ctx: Context
    ) -> float:
        """Share in [0,1] of held-out images, not of the target by the merged model, sent there."""
        head = ctx.classifier(self.task)
        own = predictions(ctx.features(merged, images.images), head)
        shown = trigger(images.images[own != self.target].float() / 255)
        sent = predictions(ctx.features(weights, shown), head) == self.target
        return float(sent.double().mean()) if len(sent) else 0.0

    def _agreement(
        self, weights: StateDict, merged: StateDict, images: Images, ctx: Context
    ) -> float:
        head = ctx.classifier(self.task)
        before, after = (
            predictions(ctx.features(one, images.images), head) for one in (merged, weights)
        )
        return agreement(before, after)
