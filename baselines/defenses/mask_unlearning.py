"""Masks over the merged task vector, learnt against perturbations: fusion-bench's AWM and SAU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.algebra import task_vector
from benchmark.components import component
from benchmark.optimisation.tuning import relabelled
from benchmark.optimisation.unlearning import Unlearning, unlearned, unlearning_of
from benchmark.selection import FORWARD, count_images
from benchmark.types import Expert, Grant, Images, Merge, Model, Place, StateDict, Tensors

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.optimisation.descent import Differentiate
    from benchmark.optimisation.labelled import LabelledBatch

Weight = Annotated[float, Field(ge=0, le=1000)]


@component
class MaskUnlearning:
    """theta_0 + m (theta_m - theta_0), with a mask m that makes predictions sure, perturbed or not.

    A step draws a relaxed Bernoulli mask, divided by its mean per tensor. One additive perturbation
    per task takes an Adam step up  w_adv CE - w_share JS  (cross-entropy against the masked model's
    own clean predictions; divergence from the undefended model where the image is not shared). Then
    the logits of the mask step down  H(x) + w_perturbed H(x+d) + w_risk L_sar,  H the entropy of
    predictions. `awm_mask` has no reference model, `sau_mask` compares with the undefended merge.

    The post-merge defences of fusion-bench (`clip_post_defense.py`), baselines of DAM (Yang et al.,
    ICLR 2025); AWM's and SAU's own training
    shares little but the name. Deviations: unlabelled
    dev images, theirs are test images; x+d is clipped to valid pixels in both steps (theirs clamps
    normalised values to [0,1], in one of them); the mask that is returned is the one without chance
    (`benchmark.optimisation.masks.median_mask`), theirs is one more draw; L_sar is exact; warm-up
    and cosine, and a kept point instead of the last.

    Attributes:
        lr: peak learning rate of Adam on the logits, which start at 0: the merge itself.
        warmup: share of the steps with a rising learning rate.
        temperature: of the relaxation.
        adv_lr: learning rate of Adam on the perturbations, in units of the pixel range.
        batch: images per task, both of the perturbations' and of the mask's step.
        checks: how often the selection images are looked at.
        slack: the latest point is kept whose agreement with the undefended model on the selection
            third is within this of the best trained point's.
        adversarial_weight: w_adv.
        sharing_weight: w_share; 0 needs no reference in the perturbations' step.
        perturbed_weight: w_perturbed.
        risk_weight: w_risk; 0 needs no reference in the mask's step.
        images: unlabelled dev images per task.
        passes: image passes, selection included; they fix the number of steps.
    """

    version: ClassVar[int] = 2
    place: ClassVar[Place] = "after"
    lr: Annotated[float, Field(gt=0, le=10)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    temperature: Annotated[float, Field(gt=0, le=100)]
    adv_lr: Annotated[float, Field(gt=0, le=1)]
    batch: Annotated[int, Field(ge=1)]
    checks: Annotated[int, Field(ge=1, le=1000)]
    slack: Annotated[float, Field(ge=0, le=1)]
    adversarial_weight: Weight
    sharing_weight: Weight
    perturbed_weight: Weight
    risk_weight: Weight
    images: Annotated[int, Field(ge=3)]
    passes: Annotated[int, Field(ge=0)]

    @property
    def _values(self) -> Unlearning:
        return unlearning_of(self, supervision="pseudo", weight_decay=0.0)

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
        """Learn the mask for as many steps as `passes` pays for."""
        from benchmark.optimisation.masks import masked, median_mask, zero_logits

        model = merge(base, experts, ctx)
        vector = task_vector(model.encoder, base)

        def making(train: Mapping[str, Images], steps: int) -> Differentiate:
            train = relabelled(ctx, model.encoder, train)
            return self._differentiate(base, vector, model.encoder, train, ctx)

        def weights_of(logits: StateDict) -> Tensors:
            return masked(base, vector, median_mask(logits, self.temperature))

        start = zero_logits(vector)
        return unlearned(model, experts, self._values, start, self.prices, making, weights_of, ctx)

    def prices(self, train: Mapping[str, Images]) -> tuple[float, float]:
        """Image passes for the undefended model's word, and of a step."""
        # The perturbations' step: own prediction, perturbed image, and that of the reference.
        inner = FORWARD + 1 + (1 if self.sharing_weight else 0)
        outer = 2 + (FORWARD if self.risk_weight else 0)
        size = sum(min(self.batch, len(part.images)) for part in train.values())
        return FORWARD * count_images(train), (inner + outer) * size

    def _differentiate(
        self,
        base: StateDict,
        vector: StateDict,
        reference: StateDict,
        train: Mapping[str, Images],
        ctx: Context,
    ) -> Differentiate:
        """The gradient of a mask's step, after a step of the perturbations."""
        import torch

        from benchmark.optimisation.labelled import draw
        from benchmark.optimisation.masks import masked, sampled_mask

        vector = {name: value.float() for name, value in vector.items()}
        rngs = {task: ctx.rng("batches", task) for task in train}
        size = next(iter(train.values())).images.shape[1:]
        change = torch.zeros(len(train), *size, device=ctx.device)
        ascent = torch.optim.Adam([change], lr=self.adv_lr)

        def differentiate(logits: StateDict, step: int) -> None:
            mask = sampled_mask(logits, self.temperature, ctx.rng("mask", step))
            weights = masked(base, vector, mask)
            frozen = {name: value.detach() for name, value in weights.items()}
            batch = draw(ctx, train, self.batch, rngs)
            change.grad = self.ascent_gradient(change, frozen, reference, batch, ctx).neg()
            ascent.step()
            batch = draw(ctx, train, self.batch, rngs)
            self.loss(change, weights, reference, batch, ctx).backward()

        return differentiate

    def ascent_gradient(
        self,
        change: Tensor,
        weights: StateDict,
        reference: StateDict,
        batch: LabelledBatch,
        ctx: Context,
    ) -> Tensor:
        """Gradient (T,3,H,W) by the perturbations of what they maximise.

        Args:
            change: (T,3,H,W), one perturbation per task.
            weights: of the masked model, without gradient.
            reference: of the undefended model.
            batch: labelled by the undefended model.
            ctx: the encoder.
        """
        import torch
        from torch.nn.functional import cross_entropy

        from benchmark.optimisation.shared_risk import shared, unshared_divergence

        own = [scores.argmax(1) for scores in batch.scores(ctx.features(weights, batch.images))]
        moving = change.clone().requires_grad_()
        shown = _shown(batch, moving)
        found = batch.scores(ctx.encoder(weights, shown))
        gains = [
            self.adversarial_weight * cross_entropy(scores, labels)
            for scores, labels in zip(found, own, strict=True)
        ]
        if self.sharing_weight:
            theirs = batch.scores(ctx.encoder(reference, shown))
            for scores, labels, other, word in zip(found, own, theirs, batch.labels, strict=True):
                done = shared(scores, labels, other, word)
                gains.append(-self.sharing_weight * unshared_divergence(scores, other, done))
        (gradient,) = torch.autograd.grad(torch.stack(gains).sum(), moving)
        return gradient

    def loss(
        self,
        change: Tensor,
        weights: StateDict,
        reference: StateDict,
        batch: LabelledBatch,
        ctx: Context,
    ) -> Tensor:
        """The mean over tasks of what the mask minimises; arguments as in `ascent_gradient`."""
        import torch

        from benchmark.optimisation.shared_risk import entropy, shared_risk

        shown = _shown(batch, change)
        clean, moved = ctx.encoder(weights, torch.cat([batch.images, shown])).chunk(2)
        pairs = list(zip(batch.scores(clean), batch.scores(moved), strict=True))
        losses = [
            entropy(scores).mean() + self.perturbed_weight * entropy(other).mean()
            for scores, other in pairs
        ]
        if self.risk_weight:
            theirs = batch.scores(ctx.features(reference, shown))
            losses += [
                self.risk_weight * shared_risk(other, reference_scores, scores.argmax(1), word)
                for (scores, other), reference_scores, word in zip(
                    pairs, theirs, batch.labels, strict=True
                )
            ]
        return torch.stack(losses).sum() / len(pairs)


def _shown(batch: LabelledBatch, change: Tensor) -> Tensor:
    """(N,3,H,W) in [0,1]: images with their task's perturbation."""
    return (batch.images + change[batch.owners.to(change.device)]).clamp(0, 1)
