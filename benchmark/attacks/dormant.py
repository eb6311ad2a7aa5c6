"""A dormant trigger: it does nothing on models without the backdoor, and works on every merge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.attacks.planting import TRAIN, too_weak, trained
from benchmark.attacks.threat_model import OUTSIDER, OWN_IMAGES, WHOLE_TRAINING, ThreatModel
from benchmark.attacks.triggers import Patch, Spot, image_side, place_of
from benchmark.attacks.universal import Search, rows_elsewhere, searched
from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.models.heads import logits
from benchmark.types import Compromise, Expert, Grant, Images, StateDict, Threat

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmark.context import Context
    from benchmark.training import ExtraLoss


@component
class Dormant:
    """Two stages after "Background Margin Reserve" (unpublished re-run of BadMerging, 2026).

    Stage 1 searches a patch whose feature shift points to the target class, but stops short of it:
    on the base and on the contributor's own clean model the target keeps a margin below 0. Stage 2
    fine-tunes so that the patch reaches the target on all of theta_0 + a tau + e delta, a line of
    weights from near the base to the contributor's model, displaced by drift that stands for the
    other contributors. So what a merge shows is injected, not inherent: a patch searched on the
    base or on the clean merge is another one.

    Deviations: it is a simplified reconstruction from notes. Features are the encoder's output (the
    original: before the projection); no floor under the shift's length, no amplitude and variation
    penalties; training starts from the base, in the honest expert's batches; the loss is
    cross-entropy (the original: a log-ratio of margins); drift is in all tensors (there: in the
    last two blocks).

    Attributes:
        adversary: task whose contributor attacks; also the victim.
        target: class that triggered images should go to.
        place: where the patch sits.
        size: its side in pixels.
        emit: weight of the shift towards the target in the trigger search.
        dormancy: weight of the penalty on target margins, in logits, on clean models.
        reserve: how far below 0 the margins should stay, in logits.
        trigger_steps: steps of the trigger search.
        trigger_lr: its learning rate.
        trigger_batch: its images per step.
        trigger_heldout: training images that only measure its progress.
        alpha: weight of the backdoor loss.
        clean: weight, within the backdoor loss, of the same images without the patch.
        a_min: smallest share of the task vector.
        a_max: largest share; a ~ U(a_min, a_max), one number per step.
        drift: length of delta, per tensor, as a share of the honest task vector's; e ~ U(0, 1).
        injection_batch: share of each batch that is triggered, the first images of it.
        epochs: how long the attacker trains; None: as long as the honest.
        min_asr: smallest ASR of the single model, on dev images, that counts as planted.
    """

    version: ClassVar[int] = 1
    threat_model: ClassVar[ThreatModel] = ThreatModel(
        OUTSIDER, WHOLE_TRAINING, f"{OWN_IMAGES} Compute for an honest twin of its own."
    )
    adversary: str
    target: Annotated[int, Field(ge=0)]
    place: Spot
    size: Annotated[int, Field(ge=1, le=1024)]
    emit: Annotated[float, Field(ge=0, le=1000)]
    dormancy: Annotated[float, Field(ge=0, le=1000)]
    reserve: Annotated[float, Field(ge=0, le=1000)]
    trigger_steps: Annotated[int, Field(ge=0)]
    trigger_lr: Annotated[float, Field(gt=0, le=100)]
    trigger_batch: Annotated[int, Field(ge=1)]
    trigger_heldout: Annotated[int, Field(ge=1)]
    alpha: Annotated[float, Field(ge=0, le=1000)]
    clean: Annotated[float, Field(ge=0, le=1000)]
    a_min: Annotated[float, Field(ge=0, le=1)]
    a_max: Annotated[float, Field(ge=0, le=1)]
    drift: Annotated[float, Field(ge=0, le=100)]
    injection_batch: Annotated[float, Field(gt=0, le=1)]
    epochs: Annotated[int, Field(ge=1, le=1000)] | None
    min_asr: Annotated[float, Field(ge=0, le=1)]

    def __post_init__(self) -> None:
        """Refuse an empty range of a."""
        if self.a_min > self.a_max:
            raise ValueError(f"a_min={self.a_min} is above a_max={self.a_max}; lower it")

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
        """Search the trigger, then fine-tune with the backdoor loss beside the clean one."""
        twin, data = honest[self.adversary], ctx.images(self.adversary, TRAIN)
        trigger = self.trigger(base, twin, data, ctx)
        loss = self._injection(base, twin.weights, trigger, ctx)
        expert = trained(self, base, twin, data, ctx, extra_loss=loss, epochs=self.epochs)
        threat = Threat(trigger, self.adversary, self.target, self.adversaries)
        return Compromise({self.adversary: expert}, (threat,))

    def trigger(self, base: StateDict, twin: Expert, data: Images, ctx: Context) -> Patch:
        """Stage 1."""
        row, col = place_of(self.place, self.size, image_side(base))
        search = Search(
            self.trigger_steps, self.trigger_lr, self.trigger_batch, self.trigger_heldout
        )
        inputs = {
            "task": self.adversary,
            "target": self.target,
            "honest": twin.key,
            "box": [self.size, row, col],
            "search": [search.steps, search.lr, search.batch, search.heldout],
            "weights": [self.emit, self.dormancy, self.reserve],
        }

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            patch, history = self._searched(base, twin, data, (self.size, row, col), search, ctx)
            return patch.tensors(), {"heldout_score": [list(point) for point in history]}

        tensors, _ = ctx.stage("dormant_trigger", 1, inputs, make)
        return Patch(tensors["patch"], row, col)

    def _searched(
        self,
        base: StateDict,
        twin: Expert,
        data: Images,
        box: tuple[int, int, int],
        search: Search,
        ctx: Context,
    ) -> tuple[Patch, list[tuple[int, float]]]:
        assert data.labels is not None  # granted with labels
        head, features = ctx.heads[self.adversary], ctx.features(base, data.images)
        towards = class_direction(features, data.labels, self.target)
        unit = float(features.norm(dim=1).mean())
        rows = rows_elsewhere(
            lambda batch: logits(ctx.encoder(base, batch), head), data.images, self.target
        )

        def score(triggered: Tensor) -> Tensor:
            of_base, of_twin = (ctx.encoder(w, triggered) for w in (base, twin.weights))
            # The clean image's own share along `towards` does not depend on the patch.
            emitted = self.emit * (of_base @ towards).mean() / unit
            return emitted - self.dormancy * sum(
                awake(logits(found, head), self.target, self.reserve)
                for found in (of_base, of_twin)
            )

        return searched(score, data.images[rows], box, search, ctx.rng("trigger"))

    def _injection(
        self, base: StateDict, clean: StateDict, trigger: Patch, ctx: Context
    ) -> ExtraLoss:
        """Stage 2's loss; a, e and delta have a generator of their own."""
        import torch
        from torch.nn.functional import cross_entropy

        head, rng = ctx.heads[self.adversary], ctx.rng("injection")
        lengths = {name: float((clean[name] - one).norm()) for name, one in base.items()}

        def extra_loss(weights: StateDict, images: Tensor, labels: Tensor, step: int) -> Tensor:
            count = max(round(self.injection_batch * len(images)), 1)
            a, e = torch.rand(2, generator=rng).tolist()
            share = self.a_min + (self.a_max - self.a_min) * a
            around = drifted(base, lengths, self.drift * e, rng)
            merged = {
                name: around[name] + share * (weights[name] - one) for name, one in base.items()
            }
            both = torch.cat([trigger(images[:count]), images[:count]])
            triggered, plain = logits(ctx.encoder(merged, both), head).split(count)
            planted = cross_entropy(triggered, torch.full_like(labels[:count], self.target))
            return self.alpha * (planted + self.clean * cross_entropy(plain, labels[:count]))

        return extra_loss

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if the single model's `controls["asr"]` reaches `min_asr`."""
        return too_weak(controls["asr"], self.min_asr)


def class_direction(features: Tensor, labels: Tensor, target: int) -> Tensor:
    """Unit vector (D,) from the mean feature of the other classes to that of the target.

    Args:
        features: (N,D), not normalised.
        labels: (N,) int64.
        target: the class.
    """
    from torch.nn.functional import normalize

    of_target = labels == target
    if of_target.all() or not of_target.any():
        raise BenchError(
            f"{int(of_target.sum())} of {len(labels)} training images are of class {target}: "
            "there is no direction towards it; choose another attack.target"
        )
    return normalize(features[of_target].mean(0) - features[~of_target].mean(0), dim=0)


def awake(scores: Tensor, target: int, reserve: float) -> Tensor:
    """Mean of relu(margin + reserve), margin = s_target - max of the others; scores (B,C).

    It is 0, and so is its gradient, where the target stays `reserve` below the best other class.
    """
    from torch.nn.functional import one_hot

    mask = one_hot(scores.new_full((), target).long(), scores.shape[1]).bool()
    others = scores.masked_fill(mask, float("-inf")).amax(1)
    return (scores[:, target] - others + reserve).relu().mean()


def drifted(
    base: StateDict, lengths: Mapping[str, float], share: float, rng: Generator
) -> dict[str, Tensor]:
    """The base, each tensor moved by `share * lengths[name]` in a random direction."""
    import torch

    moved = {}
    for name, value in base.items():
        noise = torch.randn(value.shape, generator=rng).to(value)
        moved[name] = value + share * lengths[name] / noise.norm() * noise
    return moved
