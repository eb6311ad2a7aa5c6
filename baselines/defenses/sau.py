"""Shared adversarial unlearning (SAU, Wei et al., NeurIPS 2023), on a merged encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.components import component
from benchmark.optimisation.tuning import Supervision, relabelled
from benchmark.optimisation.unlearning import unlearned, unlearning_of
from benchmark.selection import FORWARD, count_images
from benchmark.types import Expert, Grant, Images, Merge, Model, Place, StateDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.optimisation.descent import Differentiate
    from benchmark.optimisation.labelled import LabelledBatch

Weight = Annotated[float, Field(ge=0, le=1000)]


@component
class Sau:
    """Unlearn perturbations that fool the current model and the undefended one alike.

    Inner: a perturbation per image, |e| <= `bound`, that starts at the bound and takes signed
    gradient steps to maximise  w_adv (CE(h) + CE(h0)) / 2 - w_share JS(h, h0)  on x+e; cross-
    entropies count while that model is not fooled, JS while the image is not shared (both fooled,
    same wrong class of the image's own head). h0 is the frozen undefended merge. Outer:
    CE(x) + w_perturbed CE(x+e) + w_risk L_sar (`benchmark.optimisation.shared_risk`).

    Deviations from BackdoorBench's code: x+e is clipped to valid pixels (there not); L_sar is exact
    instead of clamped; no early stop when all images are shared (they have no gradient and stay
    where they are); AdamW with warm-up and cosine, and a kept point instead of the last. One batch
    holds images of all tasks, which weigh equally.

    Attributes:
        supervision: "labels" or "pseudo" (the undefended model's predictions are the labels).
        lr: peak learning rate of AdamW.
        weight_decay: its weight decay.
        warmup: share of the steps with a rising learning rate.
        batch: images per task and step.
        checks: how often the selection images are looked at.
        slack: the latest point is kept whose accuracy (with "pseudo": agreement with the undefended
            model) on the selection third is within this of the best;
            the merge itself counts with labels only.
        bound: largest change of a pixel, in units of the range [0,1]; 0 is plain fine-tuning.
        square: side in pixels of the square, placed at random per image and step, that a
            perturbation is confined to; None: the whole image (the paper's threat).
        ascent_steps: inner steps.
        ascent_lr: their size, in units of the pixel range.
        adversarial_weight: w_adv.
        sharing_weight: w_share.
        perturbed_weight: w_perturbed.
        risk_weight: w_risk.
        images: dev images per task.
        passes: image passes, selection included; they fix the number of steps.
    """

    version: ClassVar[int] = 2
    place: ClassVar[Place] = "after"
    supervision: Supervision
    lr: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    batch: Annotated[int, Field(ge=1)]
    checks: Annotated[int, Field(ge=1, le=1000)]
    slack: Annotated[float, Field(ge=0, le=1)]
    bound: Annotated[float, Field(ge=0, le=1)]
    square: Annotated[int, Field(ge=1, le=1024)] | None
    ascent_steps: Annotated[int, Field(ge=1, le=1000)]
    ascent_lr: Annotated[float, Field(gt=0, le=1)]
    adversarial_weight: Weight
    sharing_weight: Weight
    perturbed_weight: Weight
    risk_weight: Weight
    images: Annotated[int, Field(ge=3)]
    passes: Annotated[int, Field(ge=0)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Dev images, with labels unless they are pseudo-labels."""
        return (unlearning_of(self).grant,)

    def accepts(self, merge: Merge) -> str | None:
        """Any merge."""
        return None

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Unlearn for as many steps as `passes` pays for."""
        model = merge(base, experts, ctx)

        def making(train: Mapping[str, Images], steps: int) -> Differentiate:
            if self.supervision == "pseudo":
                train = relabelled(ctx, model.encoder, train)
            return self._differentiate(model.encoder, train, ctx)

        return unlearned(
            model, experts, unlearning_of(self), model.encoder, self.prices, making, dict, ctx
        )

    def prices(self, train: Mapping[str, Images]) -> tuple[float, float]:
        """Image passes for pseudo-labels, and of a step."""
        words = FORWARD * count_images(train) if self.supervision == "pseudo" else 0.0
        # Inner: both models. Outer: clean and perturbed images, and the reference's word on them.
        per_image = 2 * self.ascent_steps + 2 + 2 * FORWARD
        return words, per_image * sum(min(self.batch, len(part.images)) for part in train.values())

    def _differentiate(
        self, reference: StateDict, train: Mapping[str, Images], ctx: Context
    ) -> Differentiate:
        """The outer gradient of a step."""
        import torch

        from benchmark.optimisation.labelled import draw
        from benchmark.optimisation.shared_risk import shared_risk

        rngs = {task: ctx.rng("batches", task) for task in train}

        def differentiate(weights: StateDict, step: int) -> None:
            batch = draw(ctx, train, self.batch, rngs)
            bad = self.perturbed(weights, reference, batch, ctx, ctx.rng("squares", step))
            both = torch.cat([batch.images, bad])
            clean, moved = ctx.encoder(weights, both).chunk(2)
            theirs, theirs_moved = ctx.features(reference, both).chunk(2)
            risks = [
                shared_risk(scores, other, labels, before.argmax(1))
                for scores, other, labels, before in zip(
                    batch.scores(moved),
                    batch.scores(theirs_moved),
                    batch.labels,
                    batch.scores(theirs),
                    strict=True,
                )
            ]
            loss = batch.cross_entropy(clean) + self.risk_weight * torch.stack(risks).mean()
            if self.perturbed_weight:
                loss = loss + self.perturbed_weight * batch.cross_entropy(moved)
            loss.backward()

        return differentiate

    def perturbed(
        self,
        weights: StateDict,
        reference: StateDict,
        batch: LabelledBatch,
        ctx: Context,
        rng: torch.Generator,
    ) -> Tensor:
        """(N,3,H,W) in [0,1]: the batch's images with the perturbation of each.

        Args:
            weights: of the model as it is now; left without a gradient.
            reference: weights of the undefended model.
            batch: N images with their labels.
            ctx: the encoder.
            rng: places the squares.
        """
        import torch

        frozen = {name: value.detach() for name, value in weights.items()}
        where = _squares(batch.images, self.square, rng)
        change = self.bound * where
        for _ in range(self.ascent_steps):
            moving = change.clone().requires_grad_()
            shown = (batch.images + moving).clamp(0, 1)
            gained = self._gain(batch, ctx.encoder(frozen, shown), ctx.encoder(reference, shown))
            (slope,) = torch.autograd.grad(gained, moving)
            change = (change + self.ascent_lr * slope.sign()).clamp(-self.bound, self.bound) * where
        return (batch.images + change).clamp(0, 1)

    def _gain(self, batch: LabelledBatch, features: Tensor, theirs: Tensor) -> Tensor:
        """The inner objective, to be maximised; a sum over tasks of means over images."""
        import torch

        from benchmark.optimisation.shared_risk import shared, unshared_divergence

        gains = []
        for scores, other, labels in zip(
            batch.scores(features), batch.scores(theirs), batch.labels, strict=True
        ):
            fooling = torch.stack([_unfooled_loss(scores, labels), _unfooled_loss(other, labels)])
            done = shared(scores, labels, other, labels)
            divergence = unshared_divergence(scores, other, done)
            gains.append(
                self.adversarial_weight * fooling.mean() - self.sharing_weight * divergence
            )
        return torch.stack(gains).sum()


def _unfooled_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over the batch of the cross-entropy of the images that are still recognised."""
    from torch.nn.functional import cross_entropy

    recognised = scores.argmax(1) == labels
    return cross_entropy(scores, labels, reduction="none")[recognised].sum() / len(labels)


def _squares(images: Tensor, side: int | None, rng: torch.Generator) -> Tensor:
    """(N,1,H,W) of ones where an image may change: everywhere, or in a square of its own."""
    import torch

    count, _, height, width = images.shape
    where = torch.ones(count, 1, height, width, device=images.device)
    if side is None:
        return where
    side = min(side, height, width)
    tops = torch.randint(height - side + 1, (count, 1, 1, 1), generator=rng)
    lefts = torch.randint(width - side + 1, (count, 1, 1, 1), generator=rng)
    rows, cols = torch.arange(height).view(1, 1, -1, 1), torch.arange(width).view(1, 1, 1, -1)
    inside = (rows >= tops) & (rows < tops + side) & (cols >= lefts) & (cols < lefts + side)
    return where * inside.to(images.device)
