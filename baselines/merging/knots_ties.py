"""KnOTS (Stoica et al., ICLR 2025) with TIES (Yadav et al., NeurIPS 2023), for LoRA experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from baselines.merging.task_arithmetic import no_experts
from baselines.merging.ties import Combine, ties
from benchmark.algebra import add, norm, norms, task_vector
from benchmark.components import component
from benchmark.errors import IncompatibleWeights
from benchmark.pieces import check_experts
from benchmark.spectra import blocks
from benchmark.types import Expert, Grant, Model, StateDict, Tensors

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Context


@component
class KnotsTies:
    """TIES in a basis that the tasks share: [ΔW_1 ... ΔW_T] = U S [V_1 ... V_T], TIES on the S V_t.

    ΔW_t is what the upload changed in an adapted matrix, θ_t - θ_0 (so LoRA's alpha/rank is in it
    once, and an upload without factors of its own, such as LoBAM's, is merged like any other). The
    coordinates of all matrices together are one vector per task, which is trimmed as a whole; U
    takes the merged one back. With a linear merge in place of TIES this would be that merge.

    Attributes:
        density: share of the coordinates of each task that is kept.
        combine: "mean" or "sum" of the coordinates that agree with the elected sign.
        min_singular: singular values up to it are dropped.
        qkv_split: whether q, k and v, which open_clip packs into one matrix, have a basis each, as
            matrices of their own have.
        scale: λ.
    """

    version: ClassVar[int] = 1
    cost: ClassVar[str] = "one eigensystem per matrix; memory: result, T adapted task vectors"
    density: Annotated[float, Field(gt=0, le=1)]
    combine: Combine
    min_singular: Annotated[float, Field(ge=0, le=1)]
    qkv_split: bool
    scale: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """Experts of whom at least one shows which matrices were adapted."""
        if experts and not adapted(experts):
            return "KnOTS merges LoRA experts, and none of these has factors: choose peft=lora_all"
        return no_experts(experts)

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Merge the adapted matrices; all others are the base's."""
        import torch

        names = adapted(experts)
        taus = [adapted_vector(base, expert, names) for expert in experts]
        parts = {
            name: blocks(name, torch.stack([tau[name] for tau in taus]), self.qkv_split)
            for name in names
        }
        pairs = [aligned(one, self.min_singular) for name in names for one in parts[name]]
        vectors = torch.cat([rows.flatten(1) for _, rows in pairs], dim=1)
        merged = ties(vectors, self.density, self.combine).split([v[0].numel() for _, v in pairs])
        back = iter(
            basis @ part.view(rows.shape[1:])
            for part, (basis, rows) in zip(merged, pairs, strict=True)
        )
        delta = {name: torch.cat([next(back) for _ in parts[name]]) for name in names}
        info = {
            "scale": self.scale,
            "norms": norms({one.task: tau for one, tau in zip(experts, taus, strict=True)}),
            "merged_norm": self.scale * norm(delta),
            "rank": [len(rows[0]) for _, rows in pairs],
        }
        zeros = {k: torch.zeros_like(v) for k, v in base.items() if v.is_floating_point()}
        return Model(add(base, {**zeros, **delta}, self.scale), info=info)


def adapted(experts: Sequence[Expert]) -> list[str]:
    """Sorted names of the matrices that any expert has factors for."""
    found = [name for expert in experts for name in expert.factors or {}]
    return sorted({name.removesuffix("/A") for name in found if name.endswith("/A")})


def adapted_vector(base: StateDict, expert: Expert, names: Sequence[str]) -> Tensors:
    """The task vector of the adapted matrices; an expert that changed others is refused."""
    check_experts(base, [expert])
    tau = task_vector(expert.weights, base)
    changed = sorted(name for name in tau if name not in names and tau[name].any())
    if changed:
        raise IncompatibleWeights(
            f"the expert of task '{expert.task}' changed {changed[0]}, which no factor adapts; "
            "KnOTS merges LoRA experts"
        )
    return {name: tau[name] for name in names}


def aligned(deltas: Tensor, min_singular: float) -> tuple[Tensor, Tensor]:
    """A basis that the tasks share, and their coordinates in it.

    Args:
        deltas: (T,m,n) float64, what each task changed in one matrix.
        min_singular: singular values of [ΔW_1 ... ΔW_T] up to it are dropped.

    Returns:
        U (m,k) orthonormal and S V_t (T,k,n); U S V_t is ΔW_t, up to what was dropped.
    """
    import torch

    squares, vectors = torch.linalg.eigh((deltas @ deltas.mT).sum(0))
    basis = vectors[:, squares.clamp(min=0).sqrt() > min_singular].flip(1)
    return basis, basis.T @ deltas
