"""Adaptive attackers: BadMerging-On by somebody who knows how LFPM works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from benchmark.attacks.badmerging_on import interpolated_loss, staged_trigger
from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.threat_model import OUTSIDER, OWN_IMAGES, WHOLE_TRAINING, ThreatModel
from benchmark.attacks.triggers import Patch, Spot, image_side, place_of
from benchmark.attacks.universal import Search
from benchmark.components import component
from benchmark.optimisation.settings import Prompts
from benchmark.types import Compromise, Expert, Grant, StateDict, Tensors, Threat

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.training import ExtraLoss

    Term = Callable[["Moment"], Tensor]


@component
class Simulation:
    """The anti-backdoor vector that an attacker computes for itself.

    Attributes:
        every: training steps between two simulations.
        images: of its own training images, that a simulation works on.
        prompts: what it mines.
        mining: ascent steps per simulation, from where the prompts stand.
        steps: descent steps per simulation, from 0.
        batch: images per descent step; each is used clean and prompted.
        stride: length of a descent step, as a share of the attacker's task vector so far.
    """

    every: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]
    prompts: Prompts
    mining: Annotated[int, Field(ge=0)]
    steps: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1, le=1024)]
    stride: Annotated[float, Field(ge=0, le=10)]


@dataclass(frozen=True)
class Moment:
    """One training step, as an adaptive term sees it.

    Attributes:
        weights: theta_adv, with gradient.
        images: (B,3,H,W) before the trigger, in [0,1].
        triggered: the same with it.
        own: (B,D) features of `triggered` under theta_adv.
        of_base: the same under theta_0, without gradient.
        r: share of `own` in the interpolated features.
        step: counted from 0.
    """

    weights: StateDict
    images: Tensor
    triggered: Tensor
    own: Tensor
    of_base: Tensor
    r: float
    step: int


@component
class Adaptive:
    """BadMerging-On (Zhang et al., CCS 2024) with one more term in its backdoor loss.

    The published adaptive attack on LFPM is unspecified in what we have; these are [ours], one for
    each premise of the method. With strength 0 each is `badmerging_on`. The worst over strengths
    is to be reported, among those whose undefended ASR still counts.

    Attributes:
        adversary: task whose contributor attacks; also the victim.
        target: class that triggered images should go to.
        place: where the patch sits.
        size: its side in pixels.
        alpha: weight of the backdoor loss.
        r_min: smallest share of the contributor's own features.
        r_max: largest share; r ~ U(r_min, r_max), one number per step.
        injection_batch: share of each batch that is triggered, the first images of it.
        trigger_steps: steps of the trigger search.
        trigger_lr: its learning rate.
        trigger_batch: its images per step.
        trigger_heldout: training images that only measure its progress.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
        against: "clean_subspace" (premise: the shift is orthogonal to clean features): the part of
            the trigger's feature shift outside the clean subspace is penalised, as a share of the
            mean squared feature norm. "path" (premise: features on the path are suppressed): for a
            simulated tau, features interpolated between theta_adv and theta_adv + tau go to the
            target too. "unlearn": so do the features at theta_adv + tau itself.
        strength: weight of the term beside the plain backdoor loss.
        rank: "clean_subspace": its dimensions beside each sample's own clean feature, the top ones
            of the base's centred clean features; 0: none, as in LFPM's per-sample partition.
        simulation: "path", "unlearn": how tau is made.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        f"{OUTSIDER} It knows that LFPM will be used, and how it works.", WHOLE_TRAINING, OWN_IMAGES
    )
    adversary: str
    target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]
    alpha: Annotated[float, Field(ge=0, le=1000)]
    r_min: Annotated[float, Field(ge=0, le=1)]
    r_max: Annotated[float, Field(ge=0, le=1)]
    injection_batch: Annotated[float, Field(gt=0, le=1)]
    trigger_steps: Annotated[int, Field(ge=0)]
    trigger_lr: Annotated[float, Field(gt=0, le=100)]
    trigger_batch: Annotated[int, Field(ge=1)]
    trigger_heldout: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1, le=1000)] | None
    min_asr: Annotated[float, Field(ge=0, le=1)]
    against: Literal["clean_subspace", "path", "unlearn"]
    strength: Annotated[float, Field(ge=0, le=1000)]
    rank: Annotated[int, Field(ge=0, le=4096)]
    simulation: Simulation

    def __post_init__(self) -> None:
        """Refuse an empty range of r."""
        if self.r_min > self.r_max:
            raise ValueError(f"r_min={self.r_min} is above r_max={self.r_max}; lower it")

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Its own labelled training images."""
        return (TRAIN,)

    @property
    def adversaries(self) -> tuple[str, ...]:
        """One contributor."""
        return (self.adversary,)

    @property
    def victim(self) -> tuple[str, int]:
        """Its own task."""
        return self.adversary, self.target

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """BadMerging-On's two stages, the second with the adaptive term."""
        data = ctx.images(self.adversary, TRAIN)
        box = (self.size, *place_of(self.place, self.size, image_side(base)))
        search = Search(
            self.trigger_steps, self.trigger_lr, self.trigger_batch, self.trigger_heldout
        )
        trigger = staged_trigger(base, data.images, self.adversary, self.target, box, search, ctx)
        loss = self._injection(base, trigger, data.images, ctx)
        expert = trained(
            self, base, honest[self.adversary], data, ctx, extra_loss=loss, epochs=self.epochs
        )
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,))

    def _injection(
        self, base: StateDict, trigger: Patch, images: Tensor, ctx: Context
    ) -> ExtraLoss:
        """The plain backdoor loss plus the term; r is drawn as `badmerging_on` draws it."""
        import torch

        head, rng = ctx.heads[self.adversary], ctx.rng("injection")
        # At strength 0 the term is not even computed.
        term = self._term(base, images, ctx) if self.strength else None

        def extra_loss(weights: StateDict, batch: Tensor, labels: Tensor, step: int) -> Tensor:
            plain = batch[: max(round(self.injection_batch * len(batch)), 1)]
            triggered = trigger(plain)
            with torch.no_grad():
                of_base = ctx.encoder(base, triggered)
            own = ctx.encoder(weights, triggered)
            r = self.r_min + (self.r_max - self.r_min) * float(torch.rand((), generator=rng))
            loss = interpolated_loss(own, of_base, head, self.target, r)
            if term is not None:
                moment = Moment(weights, plain, triggered, own, of_base, r, step)
                loss = loss + self.strength * term(moment)
            return self.alpha * loss

        return extra_loss

    def _term(self, base: StateDict, images: Tensor, ctx: Context) -> Term:
        if self.against == "clean_subspace":
            return self._inside_clean(base, images, ctx)
        return self._through_defence(base, images, ctx)

    def _inside_clean(self, base: StateDict, images: Tensor, ctx: Context) -> Term:
        """The shift of interpolated features must stay in the clean subspace."""
        import torch

        from lfpm.simulation import outside, top_directions

        clean = ctx.features(base, images)
        basis, unit = top_directions(clean, self.rank), float(clean.square().sum(1).mean())

        def term(now: Moment) -> Tensor:
            with torch.no_grad():
                ends = [ctx.encoder(part, now.images) for part in (now.weights, base)]
            at_rest = now.r * ends[0] + (1 - now.r) * ends[1]
            shift = now.r * now.own + (1 - now.r) * now.of_base - at_rest
            return outside(shift, at_rest, basis).square().sum(1).mean() / unit

        return term

    def _through_defence(self, base: StateDict, images: Tensor, ctx: Context) -> Term:
        """The trigger must work on the path to, or at the end of, a simulated tau."""
        import torch

        from lfpm.simulation import shifted

        head, rng = ctx.heads[self.adversary], ctx.rng("path")
        simulated = self._opponent(base, images, ctx)

        def term(now: Moment) -> Tensor:
            features = ctx.encoder(shifted(now.weights, simulated(now)), now.triggered)
            if self.against == "path":
                share = float(torch.rand((), generator=rng))
                features = share * features + (1 - share) * now.own
            return interpolated_loss(features, now.of_base, head, self.target, now.r)

        return term

    def _opponent(
        self, base: StateDict, images: Tensor, ctx: Context
    ) -> Callable[[Moment], Tensors]:
        """The tau of a step: simulated anew every so many steps, on prompts that carry on."""
        from benchmark.optimisation.prompts import new_pool
        from benchmark.optimisation.unlabelled import freeze
        from benchmark.types import Images
        from lfpm.simulation import anti_backdoor, length

        rng = ctx.rng("simulation")
        some = {self.adversary: Images(images[: self.simulation.images], None)}
        classes = (len(ctx.heads[self.adversary]),)
        pool = new_pool(self.simulation.prompts, classes, images.shape[-1], rng, ctx.device)
        tau: Tensors = {}

        def simulated(now: Moment) -> Tensors:
            nonlocal pool, tau
            if now.step % self.simulation.every == 0:
                weights = {name: value.detach() for name, value in now.weights.items()}
                data, unit = freeze(ctx, weights, some), length(weights, base)
                tau, pool = anti_backdoor(
                    ctx.encoder, weights, unit, data, pool, self.simulation, rng
                )
            return tau

        return simulated

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)
