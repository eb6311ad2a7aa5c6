"""Singular values of task vectors: which tensors are matrices, and their economical decomposition.

Decompositions go through the smaller Gram matrix in float64, which costs a fraction of an SVD. That
loses singular values below 1e-8 of the largest, and those are no part of a task vector anyway:
weights are float32, so whatever is below `ROUNDING` is rounding error and counts as 0. It matters
for LoRA: a sum of products of low rank has null directions, which an SVD would fill at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from benchmark.pieces import Piece, merged_in_pieces, summed
from benchmark.types import Expert, Model, StateDict

if TYPE_CHECKING:
    from torch import Tensor

ROUNDING = 2.0**-23
"""Of float32, relative; times the smaller side and the largest singular value: the rank's bound."""
Matrices = Literal["all_2d", "linear"]
NOT_LINEAR = frozenset({"positional_embedding", "proj"})
"""2-D tensors of a ViT that are no layer's weight; `proj` is used the other way round, as x W."""
PACKED = "attn.in_proj_weight"
"""Ending of the name of open_clip's q, k and v, stacked in one matrix (3n,n)."""


def thin_svd(
    matrix: Tensor, floor: float = 0.0, most: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """U (m,k), S (k,) descending, V^T (k,n) with matrix = U S V^T, k the rank in float32.

    Args:
        matrix: (m,n) float64.
        floor: singular values up to it count as 0 too.
        most: how many of the largest singular values are wanted; None: all.
    """
    import torch

    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    sizes = squares.clamp(min=0).sqrt()
    bound = max(float(sizes[-1]) * len(wide) * ROUNDING, floor)
    left = vectors[:, sizes > bound].flip(1)[:, :most]
    right = left.T @ wide
    # The rows' lengths are more accurate than the roots of the squares.
    sizes = right.norm(dim=1)
    right = right / sizes[:, None]
    return (right.T, sizes, left.T) if tall else (left, sizes, right)


def polar(matrix: Tensor) -> Tensor:
    """U V^T of matrix (m,n) = U S V^T: the nearest matrix whose singular values are 1 or 0."""
    left, _, right = thin_svd(matrix)
    return left @ right


def merged_by_matrix(
    base: StateDict,
    experts: Sequence[Expert],
    combine: Callable[[Tensor], Tensor],
    scale: float,
    matrices: Matrices,
    qkv_split: bool,
) -> Model:
    """`base + scale * delta`: matrices by `combine`, every other tensor averaged.

    Args:
        base: θ_0.
        experts: at least one.
        combine: task vectors (T,m,n) of one matrix -> (m,n).
        scale: λ, of averaged tensors too.
        matrices: "all_2d": every 2-D tensor, "linear": without those of NOT_LINEAR.
        qkv_split: whether q, k and v are three matrices or one.
    """
    import torch

    def rule(piece: Piece, rows: Iterator[Tensor]) -> Tensor:
        shape = base[piece.name].shape
        if len(shape) != 2 or (matrices == "linear" and piece.name in NOT_LINEAR):
            return summed(piece, rows) / len(experts)
        deltas = torch.stack(list(rows)).view(-1, *shape)
        return torch.cat([combine(one) for one in blocks(piece.name, deltas, qkv_split)]).flatten()

    return merged_in_pieces(base, experts, rule, scale, size=None)


def blocks(name: str, deltas: Tensor, qkv_split: bool) -> Sequence[Tensor]:
    """The matrices (T,m,n) that are decomposed one by one; their rows make up the tensor's."""
    packed = qkv_split and name.endswith(PACKED)
    return deltas.chunk(3, dim=1) if packed else [deltas]
