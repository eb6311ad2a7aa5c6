"""Merging in pieces: task vectors are made a run of entries at a time, used and thrown away.

A merge then needs the model it returns and little more, however many experts there are. Everything
is float64 and in a fixed order: sorted names, entries as they lie, experts as they were given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Literal

from benchmark.algebra import check_same, first_faults
from benchmark.errors import BenchError
from benchmark.types import Expert, Model, StateDict, Tensors

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 2**16
"""Entries of a piece: some float64 vectors of that length fit into a processor's cache."""
Scope = Literal["visual", "openclip_legacy"]
VOCABULARY, CONTEXT = 49408, 77
"""Tokens and positions of OpenAI's CLIP."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Entries `start` to `stop` (not included) of one flattened tensor."""

    name: str
    start: int
    stop: int


Rule = Callable[[Piece, "Iterator[Tensor]"], "Tensor"]
"""(piece, the task vectors there, (n,) float64 each, to be used up) -> the merged one, (n,)."""
Change = Callable[[int, Piece, "Tensor"], "Tensor"]
"""(which expert, piece, its task vector there) -> what is merged in its place."""


def pieces(base: StateDict, size: int | None = PIECE) -> list[Piece]:
    """The floating-point tensors in sorted order of names, cut every `size` entries (None: not)."""
    floats = {name: base[name].numel() for name in sorted(base) if base[name].is_floating_point()}
    return [
        Piece(name, start, min(start + (size or count), count))
        for name, count in floats.items()
        for start in range(0, count, size or count)
    ]


def entries(weights: StateDict, piece: Piece) -> Tensor:
    """A new float64 vector (n,) of a piece's entries."""
    import torch

    flat = weights[piece.name].detach().reshape(-1)[piece.start : piece.stop]
    return flat.to(torch.float64, copy=True)


def merged_in_pieces(
    base: StateDict,
    experts: Sequence[Expert],
    rule: Rule,
    scale: float,
    size: int | None = PIECE,
) -> Model:
    """`base + scale * rule(task vectors)`, piece by piece.

    Args:
        base: θ_0; tensors that are not floating point are taken from it.
        experts: at least one.
        rule: merges one piece; called in the order of `pieces`.
        scale: λ.
        size: of a piece; None: whole tensors.

    Returns:
        The model; `info` has `scale`, the `norms` of the task vectors and `merged_norm`.

    Raises:
        IncompatibleWeights: names whose weights do not fit the base or are not finite.
    """
    import torch

    check_experts(base, experts, finite=False)
    result: Tensors = {
        name: torch.empty_like(value, memory_format=torch.contiguous_format)
        if value.is_floating_point()
        else value.clone()
        for name, value in base.items()
    }
    squares, merged_square = [0.0] * len(experts), 0.0
    for piece in pieces(base, size):
        merged = rule(piece, _measured(base, experts, piece, squares)) * scale
        merged_square += float(merged.dot(merged))
        result[piece.name].view(-1)[piece.start : piece.stop] = merged.add_(entries(base, piece))
    names = [expert.task for expert in experts]
    lengths = {name: square**0.5 for name, square in zip(names, squares, strict=True)}
    info = {"scale": scale, "norms": lengths, "merged_norm": merged_square**0.5}
    return Model(result, info=info)


def _measured(
    base: StateDict, experts: Sequence[Expert], piece: Piece, squares: list[float]
) -> Iterator[Tensor]:
    """The experts' task vectors in a piece; their squared lengths are added to `squares`."""
    start = entries(base, piece)
    for index, expert in enumerate(experts):
        row = entries(expert.weights, piece).sub_(start)
        square = float(row.dot(row))
        if not isfinite(square):  # which spares a pass that only looks for such values
            check_experts(base, experts)
        squares[index] += square
        yield row


def summed(piece: Piece, rows: Iterable[Tensor]) -> Tensor:
    """A Rule: the sum of the task vectors, one after the other."""
    rows = iter(rows)
    total = next(rows)
    for row in rows:
        total = total.add_(row)
    return total


def rows_of(
    base: StateDict, experts: Sequence[Expert], change: Change | None = None, zeros: int = 0
) -> Iterator[list[Tensor]]:
    """The task vectors of every piece in order, T times (n,) float64, and then `zeros` zeros.

    They are on the weights' device; the zeros of all rows are one tensor, which nobody may change.
    """
    for piece in pieces(base):
        start = entries(base, piece)
        rows = (entries(expert.weights, piece).sub_(start) for expert in experts)
        yield [change(i, piece, row) if change else row for i, row in enumerate(rows)]
    for begin in range(0, zeros, PIECE):
        yield [_zeros(base, min(PIECE, zeros - begin))] * len(experts)


def thinned(
    base: StateDict, experts: Sequence[Expert], step: int, zeros: int = 0
) -> Iterator[list[Tensor]]:
    """Every `step`-th entry of what `rows_of` gives, at the cost of these alone."""
    skip = 0
    for name in sorted(base):
        if base[name].is_floating_point():
            first, *others = (
                one[name].detach().reshape(-1)[skip::step].double()
                for one in (base, *(expert.weights for expert in experts))
            )
            yield [other - first for other in others]
            skip = (skip - base[name].numel()) % step
    yield [_zeros(base, len(range(skip, zeros, step)))] * len(experts)


def _zeros(base: StateDict, count: int) -> Tensor:
    import torch

    device = next(iter(base.values())).device
    return torch.zeros(count, dtype=torch.float64, device=device)


def check_experts(base: StateDict, experts: Sequence[Expert], finite: bool = True) -> None:
    """Refuse experts that do not fit the base.

    Raises:
        BenchError: there is none.
        IncompatibleWeights: names the task; without `finite`, values are not looked at.
    """
    if not experts:
        raise BenchError("there is no expert to merge: give at least one")
    if finite or any(first_faults(base, one.weights, finite=False) for one in experts):
        check_same(base, *((f"the expert of task '{one.task}'", one.weights) for one in experts))


def count_entries(base: StateDict) -> int:
    """P: the number of floating-point entries."""
    return sum(value.numel() for value in base.values() if value.is_floating_point())


def untrained(base: StateDict, scope: Scope) -> int:
    """How many entries that were never trained a scope adds to every flattened task vector.

    "visual" adds none. "openclip_legacy" is the state dict of the task-vectors code and what grew
    out of it: it keeps CLIP's token and position embeddings, last text norm, text projection and
    logit scale, all of whose differences are 0 (22.6 % of the vector of a ViT-B/32). Whatever
    ranks the whole vector then keeps more of the image tower.

    Returns:
        The count for OpenAI's ViT models, whose text width is their embedding's.
    """
    if scope == "visual":
        return 0
    if "proj" not in base or base["proj"].ndim != 2:
        raise BenchError(
            "merge.scope=openclip_legacy needs the image tower of an open_clip ViT (there is no "
            "matrix 'proj'); use scope=visual"
        )
    width = base["proj"].shape[1]
    return (VOCABULARY + CONTEXT + 2 + width) * width + 1
