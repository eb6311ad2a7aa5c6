"""LoRA as pure functions on weights: no module is changed.

The encoder is a function of a state dict, so an adapter is nothing but `base + product`, computed
before the call. That also avoids open_clip's trap: `attn.out_proj` is never called as a module, so
an adapter hooked into it would change nothing in the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.types import StateDict, Tensors

if TYPE_CHECKING:
    import torch

ATTENTION = {"attn.in_proj_weight": 3, "attn.out_proj.weight": 1}
MLP = {"mlp.c_fc.weight": 1, "mlp.c_proj.weight": 1}
TARGETS = {"attn": ATTENTION, "mlp": MLP, "all": ATTENTION | MLP}
"""Endings of the adapted weights' names -> matrices packed in one (q, k and v)."""


@component
class Full:
    """Full fine-tuning: contributors train every weight of the image tower."""

    version: ClassVar[int] = 1

    @property
    def adapter(self) -> None:
        """None: there is none. Keys of full fine-tuning mention no adapter."""
        return None


@component
class Lora:
    """W_0 + (alpha / rank) B A (LoRA: Hu et al., ICLR 2022), A and B trained, the rest frozen.

    q, k and v, which open_clip packs into one matrix, have a product of their own each, as in the
    paper (peft gives the packed matrix one: its A is shared by the three).

    Another component trains an adapter of its own on any weights `w` (say, a merged model) with
    `factors = lora.start(w, rng)`, gradients of a loss of `lora.weights(w, factors, s)` with
    respect to the values of `factors`, and `lora.product(factors)` as the task vector of the
    adapted matrices. Only the product may be scaled: scaling A and B alike is quadratic in s.

    Attributes:
        targets: attn: q, k, v and out_proj; mlp: c_fc and c_proj; all: both.
        rank: of every product.
        alpha: the product's scale is alpha / rank.
        lr: peak learning rate of a contributor's factors, in place of the recipe's.
    """

    version: ClassVar[int] = 1
    targets: Literal["attn", "mlp", "all"]
    rank: Annotated[int, Field(ge=1, le=4096)]
    alpha: Annotated[float, Field(gt=0, le=4096)]
    lr: Annotated[float, Field(gt=0, le=1)]

    @property
    def adapter(self) -> Lora:
        """Itself."""
        return self

    def matrices(self, base: StateDict) -> dict[str, int]:
        """Adapted weight -> matrices packed in it, sorted by name."""
        found = {
            name: slices
            for name in sorted(base)
            for ending, slices in TARGETS[self.targets].items()
            if name.endswith(f".{ending}")
        }
        if not found:
            raise BenchError(f"peft.targets={self.targets} finds no matrix; use a ViT backbone")
        return found

    def start(self, base: StateDict, rng: torch.Generator) -> Tensors:
        """Factors whose product is 0.

        Per adapted weight (out,in) of s packed matrices: `<name>/A` (s,rank,in), drawn as peft
        draws it (Kaiming-uniform with a=sqrt(5), which is U(-1,1)/sqrt(in)), and `<name>/B`
        (s,out/s,rank), zeros. As B is 0, A's gradient is 0 in the first step and in no later one.
        """
        import torch

        factors: Tensors = {}
        for name, slices in self.matrices(base).items():
            like = base[name]
            rows, columns = like.shape[0] // slices, like.shape[1]
            if self.rank > min(rows, columns):
                raise BenchError(
                    f"peft.rank={self.rank} is above {min(rows, columns)}, the smaller side of "
                    f"{name}; lower it"
                )
            drawn = torch.rand(slices, self.rank, columns, generator=rng)
            factors[f"{name}/A"] = ((2 * drawn - 1) / columns**0.5).to(like)
            factors[f"{name}/B"] = like.new_zeros(slices, rows, self.rank)
        return factors

    def product(self, factors: StateDict) -> Tensors:
        """(alpha / rank) B A per adapted weight, dense (out,in); differentiable in the factors."""
        names = sorted(name.removesuffix("/A") for name in factors if name.endswith("/A"))
        scale = self.alpha / self.rank
        return {
            name: scale * (factors[f"{name}/B"] @ factors[f"{name}/A"]).flatten(0, 1)
            for name in names
        }

    def weights(self, base: StateDict, factors: StateDict, scale: float = 1.0) -> Tensors:
        """`base + scale * product`, linear in `scale`; weights without factors are the base's."""
        moved = {n: base[n] + scale * delta for n, delta in self.product(factors).items()}
        return {**base, **moved}
