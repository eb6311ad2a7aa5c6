"""Task-vector algebra on state dicts (Ilharco et al., ICLR 2023): pure functions, no data.

A task vector is fine-tuned minus base weights. In float32 that difference is lossy (base + (expert
- base) is not the expert bit for bit), so task vectors are float64 and a sum is cast back once.
Tensors that are not floating point have no task vector; a merge takes the base's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from benchmark.errors import IncompatibleWeights
from benchmark.types import StateDict, Tensors

if TYPE_CHECKING:
    from torch import Tensor

NAMED = 3
"""How many tensors an error message names."""


def check_same(base: StateDict, *others: tuple[str, StateDict]) -> None:
    """Refuse weights that cannot be merged with the base.

    Args:
        base: the weights that everything else must fit; must be finite itself.
        others: pairs of an owner, as the message should call it, and its weights.

    Raises:
        IncompatibleWeights: names the owner and its first three missing, extra, misshapen or
            non-finite tensors.
    """
    for owner, weights in (("the base", base), *others):
        if faults := first_faults(base, weights):
            raise IncompatibleWeights(
                f"{owner} cannot be merged: {faults}; "
                "every model must be a finite fine-tune of the same base"
            )


def first_faults(
    base: StateDict, weights: StateDict, finite: bool = True, named: int = NAMED
) -> str:
    """The first `named` tensors of `weights` that do not fit `base`, in words; "" if all do.

    With `finite` off only names and shapes are looked at, which costs nothing.
    """
    faults = list(_faults(base, weights, finite))
    more = f" and {len(faults) - named} more" if len(faults) > named else ""
    return f"{', '.join(faults[:named])}{more}"


def _faults(base: StateDict, weights: StateDict, finite: bool) -> Iterator[str]:
    for name in sorted(base.keys() | weights.keys()):
        if name not in weights:
            yield f"{name} is missing"
        elif name not in base:
            yield f"{name} is extra"
        elif weights[name].shape != base[name].shape:
            yield f"{name} is {tuple(weights[name].shape)}, not {tuple(base[name].shape)}"
        elif finite and not _finite(weights[name]):
            yield f"{name} is not finite"


def _finite(values: Tensor) -> bool:
    """Whether all are; a finite sum says so a few times as fast, any other sum says nothing."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def task_vector(weights: StateDict, base: StateDict) -> Tensors:
    """`weights - base` in float64, for the floating-point tensors of the base."""
    check_same(base, ("the fine-tuned model", weights))
    return {
        name: weights[name].detach().double() - value.detach().double()
        for name, value in base.items()
        if value.is_floating_point()
    }


def total(vectors: Iterable[Tensors]) -> Tensors:
    """The sum of task vectors in the order given; only one of them is held at a time."""
    result: Tensors = {}
    for vector in vectors:
        result = {name: result[name] + one for name, one in vector.items()} if result else vector
    return result


def add(base: StateDict, delta: StateDict, scale: float) -> Tensors:
    """`base + scale * delta`: one scaling, one addition, one cast back to the base's dtype.

    Args:
        base: weights of one tower.
        delta: a float64 task vector over exactly the floating-point tensors of `base`.
        scale: the factor, λ in the papers.

    Returns:
        New tensors with the keys, shapes and dtypes of `base`. With `delta = task_vector(w, base)`
        and scale 1 they are `w` bit for bit (as long as no weight is 2**29 times its fine-tuned
        value, beyond which float64 cannot hold the difference).
    """
    floats = {name: value for name, value in base.items() if value.is_floating_point()}
    check_same(floats, ("the task vector", delta))
    return {
        name: (value.double() + scale * delta[name].double()).to(value.dtype)
        if name in floats
        else value.clone()
        for name, value in base.items()
    }


def flatten(delta: StateDict) -> Tensor:
    """All tensors as one vector (P,), in sorted order of their names."""
    import torch

    return torch.cat([delta[name].reshape(-1) for name in sorted(delta)])


def sizes(delta: StateDict) -> list[int]:
    """Number of entries per tensor in the order of `flatten`; they sum to P."""
    return [delta[name].numel() for name in sorted(delta)]


def unflatten(vector: Tensor, like: StateDict) -> Tensors:
    """The inverse of `flatten`, with the names and shapes of `like`."""
    parts = vector.split(sizes(like))
    return {
        name: part.view(like[name].shape) for name, part in zip(sorted(like), parts, strict=True)
    }


def norm(delta: StateDict) -> float:
    """Euclidean length over all tensors."""
    return sum(float(value.double().square().sum()) for value in delta.values()) ** 0.5


def cosine(first: StateDict, second: StateDict) -> float:
    """Cosine of the angle between two task vectors; 0 where one of them is zero."""
    inner = sum(
        float((value.double() * second[name].double()).sum()) for name, value in first.items()
    )
    lengths = norm(first) * norm(second)
    return inner / lengths if lengths else 0.0


def cosines(vectors: Sequence[StateDict]) -> list[list[float]]:
    """The T x T matrix of cosines between T task vectors."""
    return [[cosine(first, second) for second in vectors] for first in vectors]


def norms(vectors: Mapping[str, StateDict]) -> dict[str, float]:
    """Length of each named task vector."""
    return {name: norm(vector) for name, vector in vectors.items()}
