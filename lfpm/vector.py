"""The form of the anti-backdoor task vector: what is trained, and the tau_a it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

from benchmark.models.moments import PROJECTION
from benchmark.types import StateDict, Tensors
from lfpm.choices import Metric

if TYPE_CHECKING:
    from benchmark.models.lora import Lora

Maps: TypeAlias = "Mapping[str, Tensor]"
"""Weight -> S (d,d), float32, symmetric."""


@dataclass(frozen=True)
class Form:
    """tau_a as a function of trained variables.

    Attributes:
        start: variables for which tau_a = 0.
        vector: variables -> tau_a, dense, differentiable. A path of tau_a is scaled after this map:
            only the product of an adapter is ever scaled, never its factors.
    """

    start: Tensors
    vector: Callable[[Mapping[str, Tensor]], Tensors]

    def pulled_back(self, variables: Tensors, gradient: Tensors) -> Tensors:
        """The gradient by the variables, from the gradient by tau_a (chain rule)."""
        with torch.enable_grad():
            leaves = {name: value.detach().requires_grad_() for name, value in variables.items()}
            tau = self.vector(leaves)
            found = torch.autograd.grad(
                [tau[name] for name in gradient], list(leaves.values()), list(gradient.values())
            )
        return dict(zip(leaves, found, strict=True))


def dense(merged: StateDict, maps: Maps) -> Form:
    """Every float tensor: tau_a = V S where a map is given, else tau_a = V."""
    start = {
        name: torch.zeros_like(value) for name, value in merged.items() if value.is_floating_point()
    }
    return Form(start, lambda variables: mapped(variables, maps))


def adapter(lora: Lora, merged: StateDict, maps: Maps, rng: torch.Generator) -> Form:
    """The product of an adapter's factors, times S: still of the adapter's rank."""
    return Form(lora.start(merged, rng), lambda variables: mapped(lora.product(variables), maps))


def mapped(tensors: Mapping[str, Tensor], maps: Maps) -> Tensors:
    """Each tensor with its map applied along the axis of its layer's inputs."""
    return {
        name: along_inputs(name, value, maps[name]) if name in maps else value
        for name, value in tensors.items()
    }


def along_inputs(name: str, value: Tensor, by: Tensor) -> Tensor:
    """W S for weights (out, ...) whose other axes are the inputs; S W for the final projection."""
    if name == PROJECTION:
        return by @ value
    return (value.flatten(1) @ by).view_as(value)


def metric_maps(metric: Metric, moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """S per weight from E[x x^T] (d,d); none for `kind: none`."""
    if metric.kind == "none":
        return {}
    return {name: inverse_root(moment, metric.floor) for name, moment in moments.items()}


def inverse_root(moment: Tensor, floor: float) -> Tensor:
    """(moment / m + floor I)^(-1/2), m its mean eigenvalue, scaled so that mean(S^2) = 1."""
    values, vectors = torch.linalg.eigh(moment.double())
    values = values.clamp_min(0)
    values = values / values.mean().clamp_min(1e-30)
    factors = (values + floor).rsqrt()
    factors = factors / factors.square().mean().sqrt()
    return ((vectors * factors) @ vectors.T).float()
