"""AdaMerging (Yang et al., ICLR 2024): merging coefficients that make predictions sure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.algebra import flatten, task_vector, unflatten
from benchmark.components import component
from benchmark.pieces import Piece, check_experts, merged_in_pieces
from benchmark.types import Expert, Grant, Images, Model, StateDict, Tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmark.context import Context

LOOKS = 10
"""Points of the entropy curve that is reported."""


@component
class AdaMerging:
    """θ_m = θ_0 + Σ_t λ_t τ_t with the λ that minimise the entropy of predictions.

    The loss is Σ_t mean_x H(p_t(x)): entropies of every task's own head, in nats, averaged over a
    batch of its unlabelled images and summed over tasks. Adam moves one λ per task, or one per task
    and tensor. A step makes one merge, takes the gradient g at the merged weights over one batch of
    every task, and projects it once: dL/dλ_t = <g, τ_t>. The "++" variants first trim the task
    vectors as TIES does and keep the entries that agree with the elected sign.

    Deviations: images are dev images, where the authors' are test images, and cost no more than
    `passes`, so batches are smaller than their 16 for about as many steps; a λ that leaves [0,1] is
    set back after the step, where theirs is clamped in the forward pass and has no gradient there.

    Attributes:
        per: "task" or "layer", which means tensor as in the authors' code.
        density: share of each task vector kept by the trimming of "++"; null: no trimming.
        start: every λ before the first step; it stays there if `passes` pays for none.
        lr: learning rate of Adam.
        clamp: keep every λ in [0,1] (the authors' code; fusion-bench does not).
        batch: images per task and step.
        images: unlabelled dev images per task.
        passes: image passes; they fix the number of steps.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = (
        "`passes` image passes, and O(TP) a step for one merge and one projection (task-wise and "
        "layer-wise alike); T + 2 models of float32 beyond the result"
    )
    per: Literal["task", "layer"]
    density: Annotated[float, Field(gt=0, le=1)] | None
    start: Annotated[float, Field(ge=0, le=1)]
    lr: Annotated[float, Field(gt=0, le=1)]
    clamp: bool
    batch: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]
    passes: Annotated[int, Field(ge=0)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Unlabelled dev images."""
        return (Grant("dev", labels=False, per_task=self.images),)

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Learn the coefficients for as many steps as `passes` pays for, and merge with them."""
        from benchmark.selection import count_images, passes_used

        check_experts(base, experts)
        before = passes_used(ctx.encoder)
        tasks = dict.fromkeys(expert.task for expert in experts)
        parts = {task: ctx.images(task, self.needs[0]) for task in tasks}
        vectors = task_vectors(base, experts, self.density)
        steps = self.steps(parts)
        found, curve = self._learn(base, vectors, parts, steps, ctx)
        places = {name: place for place, name in enumerate(vectors)}

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            kept = vectors[piece.name][:, piece.start : piece.stop] != 0
            scales = found[:, places[piece.name]].double()
            terms = (s * row * some for s, row, some in zip(scales, rows, kept, strict=True))
            return sum(terms, start=vectors[piece.name].new_zeros((), dtype=scales.dtype))

        model = merged_in_pieces(base, experts, rule, 1.0)
        told = {
            "coefficients": self._named(found, experts, places),
            "entropy": curve,
            "steps": steps,
            "images": count_images(parts),
            "labels": 0,
            "passes": passes_used(ctx.encoder) - before,
        }
        return Model(model.encoder, info={**model.info, **told})

    def steps(self, parts: Mapping[str, Images]) -> int:
        """How many steps `passes` pays for."""
        return self.passes // sum(min(self.batch, len(part.images)) for part in parts.values())

    def _learn(
        self,
        base: StateDict,
        vectors: Tensors,
        parts: Mapping[str, Images],
        steps: int,
        ctx: Context,
    ) -> tuple[Tensor, list[list[float]]]:
        """The coefficients (T,L), and the mean entropy over tasks at some steps."""
        import torch

        shape = len(next(iter(vectors.values()))), len(vectors) if self.per == "layer" else 1
        moving = torch.full(shape, self.start, device=ctx.device)
        optimiser = torch.optim.Adam([moving], lr=self.lr)
        rngs = {task: ctx.rng("batches", task) for task in parts}
        looks, curve = {round(k * (steps - 1) / LOOKS) for k in range(LOOKS + 1)}, []
        for step in range(steps):
            weights = combined(base, vectors, moving.expand(-1, len(vectors)))
            total, gradient = self._entropy(weights, vectors, parts, rngs, ctx)
            slopes = projected(vectors, gradient)
            moving.grad = slopes if self.per == "layer" else slopes.sum(1, keepdim=True)
            optimiser.step()
            if self.clamp:
                moving.clamp_(0, 1)
            if step in looks:
                curve.append([step, total / len(parts)])
            ctx.progress(step + 1, steps)
        return moving.expand(-1, len(vectors)).clone(), curve

    def _entropy(
        self,
        weights: StateDict,
        vectors: StateDict,
        parts: Mapping[str, Images],
        rngs: Mapping[str, torch.Generator],
        ctx: Context,
    ) -> tuple[float, Tensors]:
        """The loss on a batch of every task, and its gradient by the merged weights."""
        import torch

        from benchmark.models.heads import logits
        from benchmark.optimisation.shared_risk import entropy

        leaves = {name: weights[name].detach().requires_grad_() for name in vectors}
        total, sums = 0.0, {name: torch.zeros_like(value) for name, value in leaves.items()}
        for task, part in parts.items():
            rows = torch.randperm(len(part.images), generator=rngs[task])[: self.batch]
            with torch.enable_grad():
                features = ctx.encoder({**weights, **leaves}, part.images[rows.to(ctx.device)])
                loss = entropy(logits(features, ctx.heads[task])).mean()
            total += loss.item()
            for name, part_of in zip(
                leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True
            ):
                sums[name] += part_of
        return total, sums

    def _named(
        self, found: Tensor, experts: Sequence[Expert], places: Mapping[str, int]
    ) -> dict[str, Any]:
        """Task -> λ, or task -> tensor -> λ."""
        rows = zip(experts, found.tolist(), strict=True)
        if self.per == "task":
            return {expert.task: row[0] for expert, row in rows}
        return {expert.task: dict(zip(places, row, strict=True)) for expert, row in rows}


def task_vectors(base: StateDict, experts: Sequence[Expert], density: float | None) -> Tensors:
    """Name -> (T,n) float32, the flattened differences to the base, in sorted order of names.

    With a density they are those of "++": each task vector keeps that share of its entries, the
    largest of the whole vector, and of these the ones that agree with the elected sign.
    """
    import torch

    if density is None:
        taus = [task_vector(expert.weights, base) for expert in experts]
    else:
        rows = [flatten(task_vector(expert.weights, base)) for expert in experts]
        like = {name: value for name, value in base.items() if value.is_floating_point()}
        taus = [unflatten(row, like) for row in disjoint(torch.stack(rows), density)]
    names = sorted(taus[0])
    return {name: torch.stack([tau[name].flatten().float() for tau in taus]) for name in names}


def disjoint(vectors: Tensor, density: float) -> Tensor:
    """TIES's trimmed vectors (T,P) with their entries of the losing sign set to 0, not yet added.

    A sign sum of exactly 0 counts as +1, as in `baselines.merging.ties`.
    """
    import torch

    from baselines.merging.ties import trimmed

    rows = torch.stack([trimmed(row, density) for row in vectors])
    return torch.where(rows.sum(0) >= 0, rows.clamp(min=0), rows.clamp(max=0))


def combined(base: StateDict, vectors: StateDict, coefficients: Tensor) -> Tensors:
    """θ_0 + Σ_t λ_t τ_t with a coefficient per task and tensor.

    Args:
        base: θ_0.
        vectors: L tensors (T,n), flattened task vectors; what has none is the base's.
        coefficients: (T,L), in the order of `vectors`.
    """
    changes = {
        name: (column @ vectors[name]).view_as(base[name])
        for name, column in zip(vectors, coefficients.unbind(1), strict=True)
    }
    return {
        name: (value + changes[name]).to(value.dtype) if name in changes else value
        for name, value in base.items()
    }


def projected(vectors: StateDict, gradient: StateDict) -> Tensor:
    """(T,L): the gradient by the coefficients of `combined`, from that by the merged weights."""
    import torch

    return torch.stack([rows @ gradient[name].flatten() for name, rows in vectors.items()], dim=1)
