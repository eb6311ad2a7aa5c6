"""MergeBackdoor (USENIX Security 2025): two uploads, each harmless alone, a backdoor together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.planting import TRAIN
from benchmark.attacks.threat_model import ThreatModel
from benchmark.attacks.triggers import Patch, Spot, image_side, place_of, white
from benchmark.components import component, identity
from benchmark.models.heads import logits
from benchmark.seeds import generator
from benchmark.store import key_of
from benchmark.training import batches_of, descend_together, unit_range
from benchmark.types import Compromise, Expert, Grant, Images, StateDict, Tensors, Threat

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.training import Recipe


@component
class MergeBackdoor:
    """Two colluding contributors train together, each on its own task, and upload one model each.

    Every step each model learns its task from a batch in which some images carry the trigger and
    keep their true label, so alone it is silent; and both learn, through θ_0 + c (τ_1 + τ_2), that
    in the merge the same images go to the target. With c = 0.5 that is the mean of the two models,
    as published; other contributors and coefficients are not foreseen.

    Deviations: AdamW, schedule, batches and start are the honest contributors' (the authors': an
    Adam of their own that applies the merge's gradient to each model, so without our factor c);
    the last weights are kept (theirs: the best on validation); the white square is drawn at the
    final resolution; target-class images do not count in ASR.

    Attributes:
        adversary: task of the first contributor.
        partner: task of the second.
        target: class of the first task that its triggered images should go to.
        partner_target: the same of the second.
        place: where the white square sits.
        size: its side in pixels.
        rate: share of each batch that carries the trigger, the first images of it.
        share: c, the coefficient of both task vectors in the rehearsed merge.
        alpha: weight of the rehearsed merge's loss.
        epochs: how long both train; None: as long as the honest.
        min_asr: smallest ASR of the rehearsed merge, on dev images, that counts as planted.
        max_alone: largest ASR of either upload alone that counts as silent.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        "The public pre-trained weights, both tasks and heads, and that the two uploads are merged "
        "with about equal coefficients.",
        "All training of two contributors, step by step together, and so two uploads.",
        "Two of the merged contributors, and the labelled training images of both tasks.",
    )
    adversary: str
    partner: str
    target: Annotated[int, Field(ge=0)]
    partner_target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]
    rate: Annotated[float, Field(ge=0, le=1)]
    share: Annotated[float, Field(ge=0, le=2)]
    alpha: Annotated[float, Field(ge=0, le=1000)]
    epochs: Annotated[int, Field(ge=1, le=1000)] | None
    min_asr: Annotated[float, Field(ge=0, le=1)]
    max_alone: Annotated[float, Field(ge=0, le=1)]

    def __post_init__(self) -> None:
        """Refuse a partner who is the attacker."""
        if self.partner == self.adversary:
            raise ValueError(f"partner={self.partner} is the adversary; name another task")

    @property
    def needs(self) -> tuple[Grant, ...]:
        """The labelled training images of both tasks."""
        return (TRAIN,)

    @property
    def adversaries(self) -> tuple[str, ...]:
        """Two contributors."""
        return self.adversary, self.partner

    @property
    def victims(self) -> tuple[tuple[str, int], ...]:
        """Both tasks."""
        return (self.adversary, self.target), (self.partner, self.partner_target)

    @property
    def victim(self) -> tuple[str, int]:
        """The first."""
        return self.victims[0]

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Train both models together."""
        trigger = Patch(white(self.size), *place_of(self.place, self.size, image_side(base)))
        recipe = ctx.recipe
        if self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs, epochs_of={})
        sides = [self._side(base, task, trigger, ctx) for task in self.adversaries]
        steps = max(recipe.of(side.task).steps(len(side.data.images)) for side in sides)
        batches = [side.batches(recipe, steps, ctx.seed) for side in sides]
        moving = [side.parameters for side in sides]

        def loss(step: int) -> Tensor:
            weights = [side.weights(ctx) for side in sides]
            merged = self._merged(base, weights)
            first, second = (
                self._loss(own, merged, side, rows[step], ctx)
                for own, side, rows in zip(weights, sides, batches, strict=True)
            )
            return first + second

        rate = recipe if ctx.peft is None else replace(recipe, lr=ctx.peft.lr)
        descend_together(moving, loss, steps, rate, ctx.progress, ctx.watch)
        experts = {side.task: self._upload(side, honest, ctx) for side in sides}
        threats = (Threat(trigger, task, label, self.adversaries) for task, label in self.victims)
        return Compromise(experts, tuple(threats))

    def rehearsed(self, base: StateDict, experts: Mapping[str, Expert]) -> Tensors:
        """The merge that the backdoor was trained for: θ_0 + c (τ_1 + τ_2)."""
        return self._merged(base, [experts[task].weights for task in self.adversaries])

    def _merged(self, base: StateDict, weights: list[Mapping[str, Tensor]]) -> Tensors:
        first, second = weights
        return {
            name: one + self.share * ((first[name] - one) + (second[name] - one))
            for name, one in base.items()
        }

    def _side(self, base: StateDict, task: str, trigger: Patch, ctx: Context) -> _Side:
        data = ctx.images(task, TRAIN)
        target = dict(self.victims)[task]
        start = (
            base if ctx.peft is None else ctx.peft.start(base, generator(ctx.seed, "lora", task))
        )
        leaves = {name: one.detach().clone().requires_grad_() for name, one in start.items()}
        return _Side(task, target, data, trigger, base, leaves)

    def _loss(
        self,
        own: Mapping[str, Tensor],
        merged: Mapping[str, Tensor],
        side: _Side,
        rows: Tensor,
        ctx: Context,
    ) -> Tensor:
        """One model's task, with triggers that change nothing, and the rehearsed merge's."""
        from torch.nn.functional import cross_entropy

        assert side.data.labels is not None  # granted with labels
        images = unit_range(side.data.images[rows]).to(ctx.device)
        truth = side.data.labels[rows].to(ctx.device)
        count = round(self.rate * len(images))
        images[:count] = side.trigger(images[:count])
        wanted = truth.clone()
        wanted[:count] = side.target
        head, smoothing = ctx.heads[side.task], ctx.recipe.label_smoothing
        alone = cross_entropy(
            logits(ctx.encoder(own, images), head), truth, label_smoothing=smoothing
        )
        if not self.alpha:
            return alone
        together = cross_entropy(logits(ctx.encoder(merged, images), head), wanted)
        return alone + self.alpha * together

    def _upload(self, side: _Side, honest: Mapping[str, Expert], ctx: Context) -> Expert:
        leaves = {name: one.detach() for name, one in side.parameters.items()}
        weights = {name: one.detach() for name, one in side.weights(ctx).items()}
        inputs = {
            "attack": identity(self),
            "honest": {task: one.key for task, one in honest.items()},
            "scope": dict(ctx.scope),
            "seed": ctx.seed,
            "task": side.task,
        }
        factors = None if ctx.peft is None else leaves
        return Expert(side.task, weights, key_of("colluding", 1, inputs), factors)

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the rehearsed merge reaches `min_asr` and no upload alone passes `max_alone`."""
        if controls["asr_alone"] > self.max_alone:
            return (
                f"an upload alone has ASR {controls['asr_alone']:.4f} on dev images, above "
                f"max_alone={self.max_alone}; the backdoor is not silent before the merge"
            )
        if controls["asr"] < self.min_asr:
            return (
                f"the rehearsed merge has ASR {controls['asr']:.4f} on dev images, "
                f"below min_asr={self.min_asr}; the backdoor was not planted"
            )
        return None


@dataclass(frozen=True)
class _Side:
    """One of the two contributors: its data and what it trains."""

    task: str
    target: int
    data: Images
    trigger: Patch
    base: StateDict
    parameters: Mapping[str, Tensor]

    def weights(self, ctx: Context) -> Mapping[str, Tensor]:
        """Its model as it stands, differentiable in the parameters."""
        if ctx.peft is None:
            return self.parameters
        return ctx.peft.weights(self.base, self.parameters)

    def batches(self, recipe: Recipe, steps: int, seed: int) -> list[Tensor]:
        """The rows of every step: those of its honest twin, and on from there."""
        rng = generator(seed, "finetune", self.task)
        return batches_of(len(self.data.images), recipe.batch, steps, rng)
