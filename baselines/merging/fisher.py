"""Fisher merging (Matena and Raffel, NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.pieces import Piece, check_experts, merged_in_pieces
from benchmark.types import Expert, Grant, Model, StateDict, Tensors

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context
    from benchmark.models.encoder import Encoder

Estimator = Literal["per_sample", "batch"]


@component
class Fisher:
    """θ_m = Σ_t F_t θ_t / Σ_t F_t, entry by entry; F_t is the diagonal of expert t's Fisher matrix.

    F_t = E_x Σ_y p(y|x) (∂ log p(y|x) / ∂θ)² at θ_t, with p from the expert behind its task's own
    head and x from unlabelled dev images of its task. What each F_t was computed from is shared by
    all merges that the expert is part of.

    Deviation: with `normalise` the floor is taken after the division, in units of the root mean
    square of a task's F_t, so that it means the same for every task and model; the authors' 1e-6 is
    in raw units, and fusion-bench adds it instead of bounding by it.

    Attributes:
        estimator: "per_sample": the definition, a backward pass for every image and class. "batch":
            (∂/∂θ Σ_x Σ_y √p(y|x) log p(y|x))² summed over batches, divided by the images: what
            fusion-bench and MergeLM compute. It costs one pass per image but is another quantity:
            the products between images and between classes stay in.
        normalise: divide every F_t by its root mean square, so that all tasks weigh alike (c_t =
            1/|F_t| up to a common factor).
        floor: least weight of an entry; where no task has more, the entry is the plain average.
        batch: images per gradient of "batch"; "per_sample" takes no notice.
        images: unlabelled dev images per task.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = (
        "per_sample: one backward pass per image and class, batch: one per image; then O(TP) time, "
        "T models of float32 beyond the result"
    )
    estimator: Estimator
    normalise: bool
    floor: Annotated[float, Field(ge=0, le=1)]
    batch: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Unlabelled dev images."""
        return (Grant("dev", labels=False, per_task=self.images),)

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Weigh every entry by how much the experts' predictions depend on it."""
        import torch

        check_experts(base, experts)
        found = []
        for done, expert in enumerate(experts):
            found.append(self.diagonal(expert, ctx))
            ctx.progress(done + 1, len(experts))
        sizes = [unit(fisher) if self.normalise else 1.0 for fisher, _ in found]

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            parts = [fisher[piece.name].flatten()[piece.start : piece.stop] for fisher, _ in found]
            scaled = [part.double() / size for part, size in zip(parts, sizes, strict=True)]
            return weighted_mean(torch.stack(list(rows)), torch.stack(scaled).clamp(self.floor))

        model = merged_in_pieces(base, experts, rule, 1.0)
        spent = {name: sum(told[name] for _, told in found) for name in ("images", "passes")}
        sharpness = {one.task: unit(f) for one, (f, _) in zip(experts, found, strict=True)}
        info = {**model.info, **spent, "labels": 0, "fisher_rms": sharpness}
        return Model(model.encoder, info=info)

    def diagonal(self, expert: Expert, ctx: Context) -> tuple[Tensors, dict[str, Any]]:
        """F_t in float32, by name, and what it took; one stage per expert."""
        from benchmark.selection import passes_used

        inputs = {
            "expert": expert.key,
            "task": expert.task,
            "images": self.images,
            "estimator": self.estimator,
            **({"batch": self.batch} if self.estimator == "batch" else {}),
        }

        def make() -> tuple[Tensors, dict[str, Any]]:
            before = passes_used(ctx.encoder)
            images = ctx.images(expert.task, self.needs[0]).images
            size = self.batch if self.estimator == "batch" else None
            found = fisher_diagonal(
                ctx.encoder, expert.weights, ctx.heads[expert.task], images, size
            )
            spent = passes_used(ctx.encoder) - before
            kept = {name: value.float() for name, value in found.items()}
            return kept, {"images": len(images), "passes": spent}

        tensors, info = ctx.stage("fisher", 1, inputs, make)
        return {name: value.to(ctx.device) for name, value in tensors.items()}, info


def fisher_diagonal(
    encoder: Encoder, weights: StateDict, head: Tensor, images: Tensor, batch: int | None
) -> Tensors:
    """The diagonal of the Fisher matrix, float64, for the floating-point tensors of `weights`.

    Args:
        encoder: the image tower; every backward pass beyond an image's first counts as a pass.
        weights: where it is taken.
        head: (C,D), rows times the logit scale.
        images: (N,3,H,W), N >= 1.
        batch: images per gradient of the "batch" estimator; None: "per_sample".
    """
    import torch

    from benchmark.models.heads import logits

    leaves = {
        name: value.detach().clone().requires_grad_()
        for name, value in weights.items()
        if value.is_floating_point()
    }
    sums = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in leaves.items()}
    for some in images.split(batch or 1):
        with torch.enable_grad():
            log_p = logits(encoder({**weights, **leaves}, some), head).log_softmax(1)
            terms = log_p.detach().exp().sqrt() * log_p
            targets = terms.flatten().unbind() if batch is None else [terms.sum()]
        for target in targets:
            slopes = torch.autograd.grad(target, list(leaves.values()), retain_graph=True)
            for total, slope in zip(sums.values(), slopes, strict=True):
                total += slope.double().square()
        encoder.meter.backward_images += (len(targets) - 1) * len(some)
    return {name: total.detach() / len(images) for name, total in sums.items()}


def unit(fisher: StateDict) -> float:
    """Root mean square over all entries; 1 where all are 0."""
    from benchmark.algebra import norm

    count = sum(value.numel() for value in fisher.values())
    return norm(fisher) / count**0.5 or 1.0


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over the first axis of values (T,...) by weights (T,...) >= 0; plain where all are 0."""
    import torch

    total = weights.sum(0)
    shares = torch.where(total > 0, weights / total, 1 / len(weights))
    return (shares * values).sum(0)
