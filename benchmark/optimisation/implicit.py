"""Gradients through the solution of an inner problem, by the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Objective: TypeAlias = "Callable[[Tensor], Tensor]"
"""The inner variable -> a scalar that also depends on the outer parameters."""


def hypergradient(
    inner: Objective,
    outer: Objective,
    solution: Tensor,
    parameters: Sequence[Tensor],
    step: float,
    terms: int,
) -> list[Tensor]:
    """Gradient of outer(x*(w), w) by w, where x*(w) minimises inner(x, w).

    x* is a fixed point of the map x -> x - step d inner/dx. With H the inner Hessian and g the
    outer gradient by x, the result is

        d outer/dw - step (d2 inner/dw dx) sum_{k < terms} (1 - step H)^k g,

    whose limit is exact where the map contracts (Grazzi et al., ICML 2020; Zeng et al., ICLR 2022,
    algorithm 1). Costs one backward pass of `outer`, one of `inner` and `terms` second-order
    products of `inner`.

    Args:
        inner: twice differentiable.
        outer: differentiable.
        solution: x*, any shape.
        parameters: w, leaves that require a gradient.
        step: of the inner map.
        terms: of the Neumann series, at least 1; without any the answer would silently be the plain
            gradient at a fixed perturbation.
    """
    if terms < 1:
        raise ValueError(f"terms={terms}: the implicit gradient needs at least 1")
    point = solution.detach().requires_grad_()
    direction, *direct = torch.autograd.grad(outer(point), [point, *parameters])
    (slope,) = torch.autograd.grad(inner(point), point, create_graph=True)
    series = direction
    for _ in range(terms - 1):
        (curved,) = torch.autograd.grad(slope, point, series, retain_graph=True)
        series = direction + series - step * curved
    mixed = torch.autograd.grad(slope, list(parameters), series, allow_unused=True)
    return [
        plain if cross is None else plain - step * cross
        for plain, cross in zip(direct, mixed, strict=True)
    ]
