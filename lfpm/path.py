"""The path theta(alpha) = theta_m + alpha tau_a: quadrature, and gradients accumulated over nodes.

    L(tau_a) = integral of l(theta(alpha)) over alpha  ~=  sum_k w_k l(theta(alpha_k))
    dL/dtau_a = sum_k w_k alpha_k dl/dtheta at theta(alpha_k)

Each node needs weights of its own, hence a forward and backward pass of its own: the gradient is
accumulated. (Were features interpolated instead of weights, one backward pass would do.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmark.types import StateDict, Tensors
from lfpm.choices import Path

Node = tuple[float, float]
"""(alpha_k, w_k)."""
NodeLoss: TypeAlias = "Callable[[Tensors, int], Tensor]"
"""(weights, number of the node) -> scalar."""
Ascent: TypeAlias = "Callable[[Tensors, Tensors], Tensors]"
"""(weights, gradient by them) -> a displacement of those weights."""


@dataclass(frozen=True)
class PathGradient:
    """Value and gradient of the path loss.

    Attributes:
        value: sum_k w_k l(alpha_k).
        weights: its gradient by tau_a, keyed as tau_a.
        inputs: its gradient by the extra leaves, in their order; no factor alpha_k here.
    """

    value: float
    weights: Tensors
    inputs: tuple[Tensor, ...]


def nodes(path: Path, rng: torch.Generator) -> list[Node]:
    """Nodes and weights of the mean over [path.start, 1]; the weights sum to 1."""
    k = path.nodes
    if path.rule == "end":
        return [(1.0, 1.0)]
    if path.rule == "random":
        places, shares = [float(torch.rand((), generator=rng))], [1.0]
    elif path.rule == "gauss_legendre":
        roots, mass = np.polynomial.legendre.leggauss(k)
        places, shares = ((roots + 1) / 2).tolist(), (mass / 2).tolist()
    elif path.rule == "uniform":
        places, shares = [(i + 1) / k for i in range(k)], [1 / k] * k
    else:
        drawn = (torch.arange(k) + torch.rand(k, generator=rng)) / k
        places, shares = drawn.tolist(), [1 / k] * k
    return [(path.start + (1 - path.start) * x, w) for x, w in zip(places, shares, strict=True)]


def count(path: Path) -> int:
    """Nodes per outer step."""
    return 1 if path.rule in ("end", "random") else path.nodes


def at(merged: StateDict, tau: Mapping[str, Tensor], alpha: float) -> Tensors:
    """theta_m + alpha tau_a as new tensors; tensors that tau_a lacks stay the merged ones."""
    return {
        name: value + alpha * tau[name] if name in tau else value for name, value in merged.items()
    }


def path_gradient(
    loss: NodeLoss,
    merged: StateDict,
    tau: Mapping[str, Tensor],
    quadrature: Sequence[Node],
    inputs: Sequence[Tensor] = (),
    ascend: Ascent | None = None,
) -> PathGradient:
    """Value and gradient of the path loss, one node after the other.

    Args:
        loss: (weights, number of the node) -> scalar; a node may have images of its own.
        merged: theta_m.
        tau: tau_a, without gradient; weights it lacks get none.
        quadrature: (alpha_k, w_k).
        inputs: leaves inside `loss` that are differentiated along the way (prompts).
        ascend: (weights, gradient) at a node -> displacement at which its gradient is taken again.
    """
    value = 0.0
    total = {name: torch.zeros_like(part) for name, part in tau.items()}
    extra = [torch.zeros_like(leaf) for leaf in inputs]
    for k, (alpha, weight) in enumerate(quadrature):
        weights = at(merged, tau, alpha)
        if ascend is not None:
            leaves = {name: weights[name] for name in tau}
            _, first = _node(loss, k, weights, list(tau), ())
            by = ascend(leaves, dict(zip(tau, first, strict=True)))
            weights = {**weights, **{name: leaves[name] + by[name] for name in tau}}
        here, gradients = _node(loss, k, weights, list(tau), inputs)
        value += weight * here
        for part, gradient in zip(total.values(), gradients, strict=False):
            part.add_(gradient, alpha=weight * alpha)
        for part, gradient in zip(extra, gradients[len(tau) :], strict=True):
            part.add_(gradient, alpha=weight)
    return PathGradient(value, total, tuple(extra))


def _node(
    loss: NodeLoss, k: int, weights: Tensors, names: Sequence[str], inputs: Sequence[Tensor]
) -> tuple[float, tuple[Tensor, ...]]:
    """Loss and its gradients by the named weights, then by the inputs."""
    with torch.enable_grad():
        leaves = {name: weights[name].detach().requires_grad_() for name in names}
        here = loss({**weights, **leaves}, k)
        gradients = torch.autograd.grad(here, [*leaves.values(), *inputs])
    return here.item(), gradients
