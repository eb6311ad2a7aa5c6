"""Representation Surgery (Yang et al., ICML 2024): an adapter per task on a merged model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component, role
from benchmark.types import Expert, Grant, Model, StateDict, Tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmark.context import Context


@component
class Surgery:
    """Any merge, with z_t = f - U_t relu(D_t f) in place of its features f on images of task t.

    The adapters (D: D_features -> r, U: r -> D_features, no biases, U = 0 at first) minimise the
    mean absolute difference of z_t to the features of expert t, on unlabelled dev images of task t.
    Features are not normalised. Encoders stand still and images are not augmented, so features are
    computed once and the steps cost no image passes.

    Every expert is needed when adapters are fitted, the attacker's too: its adapter imitates the
    backdoored model. At use the task of an image must be known, as its head must.

    Attributes:
        inner: the merge that adapters are put on; another one with `merge@merge.inner=NAME`.
        rank: r.
        steps: of Adam, for each task; 0 leaves the merge as it is.
        lr: its learning rate.
        batch: images per step.
        images: unlabelled dev images per task.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = (
        "that of the merge, and two forward passes per image; features alone are trained on; the "
        "merged model and one expert at a time"
    )
    adapts: ClassVar[bool] = True  # leaves adapters, so that no merge may follow it
    inner: Any
    rank: Annotated[int, Field(ge=1)]
    steps: Annotated[int, Field(ge=0)]
    lr: Annotated[float, Field(gt=0, le=1)]
    batch: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]

    @property
    def _grant(self) -> Grant:
        return Grant("dev", labels=False, per_task=self.images)

    @property
    def needs(self) -> tuple[Grant, ...]:
        """What the merge may see, and unlabelled dev images."""
        return tuple(dict.fromkeys((*self.inner.needs, self._grant)))

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Experts that the merge accepts, one for each task."""
        tasks = [expert.task for expert in experts]
        twice = sorted({task for task in tasks if tasks.count(task) > 1})
        if twice:
            return f"task '{twice[0]}' has several experts, and one adapter cannot imitate them all"
        return no_experts(experts) or self.inner.accepts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Merge, then fit the adapters."""
        from benchmark.selection import passes_used

        acting = ctx.narrowed(role=role("merge", self.inner), granted=self.inner.needs)
        model = self.inner(base, experts, acting)
        before, seen = passes_used(ctx.encoder), 0
        adapters, distances = {}, {}
        for done, expert in enumerate(experts):
            images = ctx.images(expert.task, self._grant).images
            seen += len(images)
            ours = ctx.features(model.encoder, images)
            theirs = ctx.features(expert.weights, images)
            adapters[expert.task] = self.fitted(ours, theirs, ctx.rng("adapter", expert.task))
            distances[expert.task] = [
                distance(ours, theirs, one) for one in (None, adapters[expert.task])
            ]
            ctx.progress(done + 1, len(experts))
        told = {
            "distance": distances,
            "images": max(seen, model.info.get("images", 0)),
            "labels": 0,
            "passes": passes_used(ctx.encoder) - before + model.info.get("passes", 0),
            "merge": dict(model.info),
        }
        return Model(model.encoder, adapters, model.artifacts, told)

    def fitted(self, ours: Tensor, theirs: Tensor, rng: torch.Generator) -> Tensors:
        """The adapter of one task.

        Args:
            ours: (N,D) features of the merged model, not normalised.
            theirs: (N,D) of the expert, on the same images.
            rng: draws D uniformly within 1/√D_features of 0, and the batches.
        """
        import torch

        from benchmark.models.heads import adapted

        width = ours.shape[1]
        down = (2 * torch.rand(self.rank, width, generator=rng) - 1) / width**0.5
        down = down.to(ours.device).requires_grad_()
        up = torch.zeros(width, self.rank, device=ours.device, requires_grad=True)
        optimiser = torch.optim.Adam([down, up], lr=self.lr)
        for _ in range(self.steps):
            rows = torch.randperm(len(ours), generator=rng)[: self.batch].to(ours.device)
            with torch.enable_grad():
                loss = (adapted(ours[rows], down, up) - theirs[rows]).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return {"down": down.detach(), "up": up.detach()}


def distance(ours: Tensor, theirs: Tensor, adapter: StateDict | None) -> float:
    """Mean absolute difference of features (N,D) to an expert's, behind an adapter if there is."""
    from benchmark.models.heads import adapted

    shown = ours if adapter is None else adapted(ours, adapter["down"], adapter["up"])
    return float((shown - theirs).abs().mean())
