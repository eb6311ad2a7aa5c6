"""RegMean (Jin et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.pieces import Piece, check_experts, merged_in_pieces, summed
from benchmark.types import Expert, Grant, Model, StateDict, Tensors

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context

Cover = Literal["all_linear", "mlp_only"]
LAYERS = {
    "mlp_only": ("mlp.c_fc.weight", "mlp.c_proj.weight"),
    "all_linear": (
        "attn.in_proj_weight",
        "attn.out_proj.weight",
        "mlp.c_fc.weight",
        "mlp.c_proj.weight",
    ),
}
"""The linear layers of a residual block, by the names of their weights (out,in)."""


@component
class RegMean:
    """Each linear layer is the one nearest to all experts' layers on the experts' own inputs.

    With x the inputs of a layer on task t, written as rows, W_t its weights (in,out) and G_t =
    E[xᵀx] shrunk off the diagonal,  W_m = (Σ_t G_t)⁻¹ Σ_t G_t W_t.  Everything else is averaged.
    Inputs are those of unlabelled dev images, as they are: BadMerging takes training images behind
    random augmentation. Second moments are shared by all merges that an expert is part of.

    Deviations: G_t is a mean over tokens, so tasks with fewer images weigh no less. A ridge keeps
    singular Grams harmless; it pulls towards the average of the experts' weights, not towards 0, so
    that directions that no input has are averaged.

    Attributes:
        cover: which layers. "all_linear": the four of every residual block, attention included (Q,
            K and V are packed but share their inputs, so that solving them together or apart is the
            same). "mlp_only": the two that a hook on open_clip's modules reaches, as in BadMerging
            and the CLIP literature before fusion-bench. Patch embedding and final projection are
            averaged.
        off_diagonal: a, what off-diagonal entries of G_t are multiplied with.
        ridge: added to the diagonal of Σ_t G_t, in units of its mean diagonal entry.
        images: unlabelled dev images per task.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = (
        "one forward pass per image, a solve of d³ per layer; T d x d Grams of float64 per layer "
        "(about 1 GB a task for a ViT-B/32), also on disk"
    )
    cover: Cover
    off_diagonal: Annotated[float, Field(ge=0, le=1)]
    ridge: Annotated[float, Field(gt=0, le=1)]
    images: Annotated[int, Field(ge=1)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Unlabelled dev images."""
        return (Grant("dev", labels=False, per_task=self.images),)

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Any experts."""
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Regress the covered layers, average the rest."""
        check_experts(base, experts)
        layers = covered(base, self.cover)
        found = []
        for done, expert in enumerate(experts):
            found.append(self.moments(expert, ctx))
            ctx.progress(done + 1, len(experts))

        def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
            if piece.name not in layers:
                return summed(piece, rows) / len(experts)
            changes = [row.view(base[piece.name].shape).T for row in rows]
            grams = [shrunk(moments[piece.name], self.off_diagonal) for moments, _ in found]
            return regmean(changes, grams, self.ridge).T.flatten()

        model = merged_in_pieces(base, experts, rule, 1.0, size=None)
        spent = {name: sum(told[name] for _, told in found) for name in ("images", "passes")}
        return Model(
            model.encoder, info={**model.info, **spent, "labels": 0, "layers": len(layers)}
        )

    def moments(self, expert: Expert, ctx: Context) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
        """E[xᵀx] (in,in) float64 of every coverable layer, and what it took; a stage per expert."""
        from benchmark.models.moments import recorded
        from benchmark.selection import passes_used

        inputs = {"expert": expert.key, "task": expert.task, "images": self.images}

        def make() -> tuple[Tensors, dict[str, Any]]:
            before = passes_used(ctx.encoder)
            images = ctx.images(expert.task, self.needs[0]).images
            with recorded(ctx.encoder, expert.weights) as moments:
                ctx.features(expert.weights, images)
            means, names = moments.means(), covered(expert.weights, "all_linear")
            spent = passes_used(ctx.encoder) - before
            return {name: means[name] for name in names}, {"images": len(images), "passes": spent}

        tensors, info = ctx.stage("moments", 1, inputs, make)
        return {name: value.to(ctx.device) for name, value in tensors.items()}, info


def covered(weights: StateDict, cover: Cover) -> tuple[str, ...]:
    """The weights of linear layers in residual blocks that are regressed, in sorted order."""
    names = sorted(
        name
        for name in weights
        if name.startswith("transformer.resblocks.") and name.endswith(LAYERS[cover])
    )
    if not names:
        raise BenchError(
            f"merge.cover={cover} found no linear layer: the weights are not those of an image "
            "tower of open_clip (transformer.resblocks.N. ...)"
        )
    return tuple(names)


def shrunk(gram: Tensor, off_diagonal: float) -> Tensor:
    """A G + (1 - a) diag(G) of a Gram matrix (d,d); a = 1 keeps it, a = 0 leaves its diagonal."""
    return off_diagonal * gram + (1 - off_diagonal) * gram.diagonal().diag()


def regmean(weights: Sequence[Tensor], grams: Sequence[Tensor], ridge: float) -> Tensor:
    """(Σ G_t + r I)⁻¹ Σ (G_t + r/T I) W_t, float64.

    A linear layer is y = x W. Where Σ G_t is 0 the result is the average.

    Args:
        weights: T matrices (in,out), or their differences to a common one.
        grams: T symmetric positive semi-definite matrices (in,in).
        ridge: r over the mean diagonal entry of Σ G_t; 0 needs a regular Σ G_t.

    Returns:
        (in,out).
    """
    import torch

    total = torch.stack([gram.double() for gram in grams]).sum(0)
    strength = ridge * float(total.diagonal().mean())
    pairs = zip(grams, weights, strict=True)
    wanted = torch.stack([gram.double() @ weight.double() for gram, weight in pairs]).sum(0)
    average = torch.stack([weight.double() for weight in weights]).mean(0)
    if not total.any():
        return average
    eye = torch.eye(len(total), dtype=torch.float64, device=total.device)
    return torch.linalg.solve(total + strength * eye, wanted + strength * average)
