"""Cross-task linearity: is the weight path between two models a straight line in feature space?

Zhou et al., ICML 2024, arXiv 2402.03660: for every layer l, and with A the features of the
weight-interpolated model and B the interpolation of the two models' features,

    A = f_l((1 - alpha) theta + alpha theta')  ~=  B = (1 - alpha) f_l(theta) + alpha f_l(theta')

    distance = 1 - |<A,B>| / (|A| |B|)    (0 if linear; |.| as in the authors' code)
    coefficient = <A,B> / |B|^2           (1 if linear; it shows the sign)

each per sample (features flattened) and once over the whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmark.algebra import add, task_vector
from benchmark.models.encoder import Encoder
from benchmark.models.heads import Head, logits
from benchmark.types import StateDict

LINE = "line"
"""The comparison that cross-task linearity is about: A with B."""
COMPARISONS = (LINE, "ends", "middle_first", "middle_second")
"""Beside it, what it is to be judged by: the two end models with each other, A with each end."""
Layers = Callable[[StateDict], Mapping[str, Tensor]]
"""Weights -> layer's name -> its outputs (N,...), for some fixed inputs."""


@dataclass(frozen=True)
class Linearity:
    """How well B stands for A: mean and sample deviation over samples, and the whole matrix.

    Attributes:
        samples: N.
        distance: mean over samples of 1 - |cos|, in [0,1].
        distance_std: its sample standard deviation; 0 for one sample.
        distance_whole: the same of the two matrices as one vector each.
        coefficient: mean over samples of <A,B>/|B|^2.
        coefficient_std: its sample standard deviation; 0 for one sample.
        coefficient_whole: the same of the two matrices as one vector each.
    """

    samples: int
    distance: float
    distance_std: float
    distance_whole: float
    coefficient: float
    coefficient_std: float
    coefficient_whole: float


def inner(first: Tensor, second: Tensor) -> Tensor:
    """(N,3): <A,B>, |A|^2 and |B|^2 of every sample, float64; all that `summary` needs.

    Args:
        first: A, (N,...); everything but the first axis is flattened.
        second: B, of the same shape.
    """
    a, b = first.double().flatten(1), second.double().flatten(1)
    return torch.stack([(a * b).sum(1), a.square().sum(1), b.square().sum(1)], dim=1)


def distance(products: Tensor) -> Tensor:
    """1 - |<A,B>| / (|A| |B|) of products (...,3), in [0,1]; 0 for A = B = 0, 1 if only one is."""
    cross, a, b = products.unbind(-1)
    length = (a * b).sqrt()
    cosine = torch.where(length > 0, cross.abs() / length, ((a == 0) & (b == 0)).double())
    return (1 - cosine).clamp(min=0)  # rounding may take a cosine past 1


def coefficient(products: Tensor) -> Tensor:
    """<A,B> / |B|^2 of products (...,3); nan where B is 0."""
    return products[..., 0] / products[..., 2]


def summary(products: Tensor) -> Linearity:
    """The numbers of a layer from its products (N,3), N >= 1."""
    apart, slope, whole = distance(products), coefficient(products), products.sum(0)
    return Linearity(
        samples=len(products),
        distance=float(apart.mean()),
        distance_std=_deviation(apart),
        distance_whole=float(distance(whole)),
        coefficient=float(slope.mean()),
        coefficient_std=_deviation(slope),
        coefficient_whole=float(coefficient(whole)),
    )


def _deviation(values: Tensor) -> float:
    return float(values.std()) if len(values) > 1 else 0.0


def linearity(
    batches: Iterable[Layers], first: StateDict, second: StateDict, alpha: float
) -> dict[str, dict[str, Linearity]]:
    """Layer -> comparison -> numbers, over all batches.

    Args:
        batches: per batch of inputs, the outputs of every layer under given weights.
        first: theta, at alpha = 0.
        second: theta', at alpha = 1.
        alpha: the place on the way.
    """
    middle = add(first, task_vector(second, first), alpha)
    found: dict[str, dict[str, list[Tensor]]] = {}
    with torch.no_grad():
        for layers in batches:
            outputs = [layers(weights) for weights in (first, middle, second)]
            for name, start, halfway, end in _by_layer(outputs):
                kept = found.setdefault(name, {kind: [] for kind in COMPARISONS})
                kept[LINE].append(inner(halfway, torch.lerp(start, end, alpha)))
                kept["ends"].append(inner(start, end))
                kept["middle_first"].append(inner(halfway, start))
                kept["middle_second"].append(inner(halfway, end))
    return {
        name: {kind: summary(torch.cat(parts)) for kind, parts in kinds.items()}
        for name, kinds in found.items()
    }


def _by_layer(
    outputs: Sequence[Mapping[str, Tensor]],
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    start, halfway, end = outputs
    for name, value in start.items():
        yield name, value, halfway[name], end[name]


def encoder_layers(
    encoder: Encoder, images: Tensor, head: Head, batch: int = 100
) -> Iterator[Layers]:
    """Per batch of images: residual blocks, embedding and logits, as a function of the weights.

    Args:
        encoder: the image tower.
        images: (N,3,H,W) uint8 or float in [0,1].
        head: (C,D) of the images' task.
        batch: images per call; all tokens of all blocks of a batch are held three times.
    """
    for chunk in images.split(batch):
        yield lambda weights, chunk=chunk: _outputs(encoder, weights, chunk, head)


def _outputs(encoder: Encoder, weights: StateDict, images: Tensor, head: Head) -> dict[str, Tensor]:
    blocks, features = encoder.blocks(weights, images)
    named = {f"block {number}": tokens for number, tokens in enumerate(blocks, 1)}
    return {**named, "embedding": features, "logits": logits(features, head)}
