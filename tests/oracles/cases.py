"""What every package is asked about: random task vectors of several shapes, and the edges.

All numbers are float32 numbers in float64 tensors, so that nobody's rounding of the input matters
and equal magnitudes are equal for all.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from benchmark.seeds import generator

Case = dict[str, Tensor]

REFERENCE = [
    [4, -1, 0.5, -3, 2, 0.25, 0.1, -0.2, 0.3, -0.4],
    [0.9, 2.5, -0.6, -2, -5, 0.05, 0.15, 0.35, -0.45, 0.55],
    [-3.5, 1.5, 0.7, 1, 0.8, 0.65, -0.75, 0.85, 0.95, -0.12],
]
"""Three task vectors whose magnitudes all differ."""


def _exact(values: Tensor) -> Tensor:
    return values.float().double()


def _normal(name: str, *shape: int) -> Tensor:
    drawn = torch.randn(shape, generator=generator("oracles", name), dtype=torch.float64)
    return _exact(drawn)


@cache
def vectors() -> dict[str, Tensor]:
    """Ordinary task vectors (T,P)."""
    found = {"reference": _exact(torch.tensor(REFERENCE))}
    for tasks, count in ((1, 200), (2, 400), (3, 500), (8, 300)):
        found[f"normal {tasks}x{count}"] = _normal(f"normal {tasks}x{count}", tasks, count)
    found["heavy tails, 4x300"] = _exact(_normal("heavy", 4, 300) ** 3)
    found["small, 4x300"] = _exact(_normal("small", 4, 300) * 1e-4)
    found["of one sign, 4x300"] = _normal("sign", 4, 300).abs()
    return found


@cache
def long() -> dict[str, Tensor]:
    """Task vectors (T,P) longer than the sample by which `benchmark.quantiles` ranks."""
    return {"normal 2x200000": _normal("long", 2, 200_000)}


@cache
def edges() -> dict[str, Tensor]:
    """Task vectors (T,P) at the edges of a definition."""
    one = _normal("edge", 1, 200)
    sparse = _normal("sparse", 3, 400)
    sparse[torch.rand(sparse.shape, generator=generator("oracles", "zeros")) < 0.9] = 0
    return {
        "cancelling": torch.cat([one, -one]),
        "identical": one.repeat(3, 1),
        "one task of zeros": torch.cat([_normal("edge two", 2, 200), torch.zeros_like(one)]),
        "all zeros": torch.zeros(3, 200, dtype=torch.float64),
        "nine of ten zeros": sparse,
        "equal magnitudes": _exact(_normal("equal", 3, 400).mul(4).round().div(4)),
        "three entries": _normal("three", 2, 3),
        "a hundred entries": _normal("hundred", 3, 100),
    }


def alike() -> dict[str, Tensor]:
    """Task vectors (T,P) that point the same way, about."""
    shared = _normal("shared", 500)
    return {
        f"alike, {tasks}x500": _exact(_normal(f"alike {tasks}", tasks, 500) + shared)
        for tasks in (2, 5)
    }


def tiny() -> Tensor:
    """Two alike task vectors as small as those of a bias."""
    return _exact((_normal("tiny", 2, 768) + _normal("tiny shared", 768)) * 1e-5)


@cache
def models() -> dict[str, Case]:
    """State dicts: `0/...` the base, `1/...` and on the experts; of several shapes."""
    shapes = {"bias": (7,), "block": (2, 3, 4), "scale": (), "weight": (7, 5)}
    return {
        f"models, T={tasks}": {
            f"{model}/{name}": _normal(f"{tasks} {model} {name}", *shape)
            for model in range(tasks + 1)
            for name, shape in shapes.items()
        }
        for tasks in (1, 2, 5)
    }


@cache
def matrices() -> dict[str, Tensor]:
    """Task vectors (T,m,n) of one matrix, of full rank."""
    shapes = ((1, 12, 20), (2, 24, 24), (3, 40, 16), (3, 16, 40), (5, 33, 21), (8, 32, 24))
    return {f"{t}x{m}x{n}": _normal(f"matrix {t} {m} {n}", t, m, n) for t, m, n in shapes}


def low_rank(rank: int = 2) -> Tensor:
    """Task vectors (3,24,18) of rank 2 each, as LoRA's are."""
    left, right = _normal("left", 3, 24, rank), _normal("right", 3, rank, 18)
    return left @ right


@cache
def grams() -> dict[str, Case]:
    """Weights (T,in,out) and second moments (T,in,in) of inputs."""
    found = {}
    for tasks, width, out in ((2, 2, 2), (3, 16, 9), (8, 32, 24)):
        name = f"{tasks} tasks, {width} inputs"
        inputs = _normal(f"inputs {name}", tasks, 4 * width, width)
        found[name] = {
            "weights": _normal(f"weights {name}", tasks, width, out),
            "grams": inputs.mT @ inputs / inputs.shape[1],
        }
    return found


def singular_gram() -> Case:
    """As in `grams`, with an input that is always 0."""
    case = grams()["3 tasks, 16 inputs"]
    dead = case["grams"].clone()
    dead[:, 3] = 0
    dead[:, :, 3] = 0
    return {**case, "grams": dead}


@cache
def fishers() -> dict[str, Case]:
    """Weights (T,P) and positive diagonals (T,P) whose sizes differ from task to task."""
    found = {}
    for tasks, count in ((2, 100), (3, 500), (8, 300)):
        sizes = 10.0 ** torch.arange(tasks, dtype=torch.float64)[:, None]
        fisher = _exact(_normal(f"fisher {tasks}", tasks, count).square() * sizes)
        weights = _normal(f"fisher weights {tasks}", tasks, count)
        found[f"{tasks}x{count}"] = {"weights": weights, "fisher": fisher}
    return found


@cache
def layers() -> dict[str, Case]:
    """A base (L,n), task vectors (T,L,n), coefficients (T,L) in [0,1] and a gradient (L,n)."""
    return {
        f"T={tasks}": {
            "base": _normal(f"layer base {tasks}", 4, 30),
            "vectors": _normal(f"layer vectors {tasks}", tasks, 4, 30),
            "coefficients": _normal(f"coefficients {tasks}", tasks, 4).sigmoid(),
            "gradient": _normal(f"gradient {tasks}", 4, 30),
        }
        for tasks in (1, 3, 8)
    }


@cache
def adapters() -> dict[str, Case]:
    """A weight (out,in), factors A (T,rank,in) and B (T,out,rank)."""
    return {
        f"rank {rank}": {
            "weight": _normal(f"adapted {rank}", 12, 8),
            "A": _normal(f"A {rank}", 3, rank, 8),
            "B": _normal(f"B {rank}", 3, 12, rank),
        }
        for rank in (1, 2)
    }


@cache
def scores() -> dict[str, Tensor]:
    """Class scores (B,C)."""
    spread = {f"scores {c}": _normal(f"scores {c}", 64, c) * 5 for c in (2, 10, 100)}
    return {**spread, "equal scores": torch.zeros(3, 10, dtype=torch.float64)}
