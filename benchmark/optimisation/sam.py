"""Displacements of weights, as sharpness-aware minimisation uses them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from benchmark.algebra import norm
from benchmark.types import Tensors


def displacement(direction: Mapping[str, Tensor], rho: float) -> Tensors:
    """`direction` scaled to length rho: eps = rho g / (|g| + 1e-12) (Foret et al. 2021, eq. 2)."""
    factor = rho / (norm(direction) + 1e-12)
    return {name: factor * value for name, value in direction.items()}


def adaptive_displacement(
    weights: Mapping[str, Tensor], gradient: Mapping[str, Tensor], rho: float
) -> Tensors:
    """Eps = rho T^2 g / (|T g| + 1e-12) with T = diag(|w|) (Kwon et al. 2021, eq. 6, its eta 0).

    Larger weights move further; a weight of 0 stays. |eps / w| is rho over the weights that are
    not 0, whatever the scale of the weights, so this rho is no length.
    """
    scaled = {name: weights[name].abs() * value for name, value in gradient.items()}
    factor = rho / (norm(scaled) + 1e-12)
    return {name: factor * weights[name].abs() * value for name, value in scaled.items()}


def moved(tensors: Mapping[str, Tensor], by: Mapping[str, Tensor]) -> Tensors:
    """The sum of both, as new tensors."""
    return {name: value + by[name] for name, value in tensors.items()}
