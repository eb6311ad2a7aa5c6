"""The SAM-like step: where the path gradient is taken, in the variables that are trained.

none         G(v)
ascent       G(v + eps), eps = rho G/|G|, G accumulated over all nodes of the path
node_ascent  at each node, dl/dtheta at theta + eps_k, eps_k = rho g_k/|g_k|
path_aware   G(v - rho v/|v|): nearer to the backdoored model, without ascent

Adaptive ascents use eps = rho T^2 G/|T G| with T = |weights|. v is what AdamW moves: V of the
metric, an adapter's factors, or tau_a itself. Where tau_a is linear in v, path_aware is
G((1 - rho/|v|) v): every node of the path a little nearer to 0, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from torch import Tensor

from benchmark.optimisation.sam import adaptive_displacement, displacement, moved
from benchmark.types import Tensors
from lfpm.choices import Sharpness

GradientAt: TypeAlias = "Callable[[Tensors], Tensors]"
"""Variables -> gradient of the path loss by them."""


def displaced(
    settings: Sharpness, variables: Tensors, weights: Mapping[str, Tensor], ascent: GradientAt
) -> Tensors:
    """The variables at which the gradient that updates them is taken.

    Args:
        settings: kind and rho.
        variables: where training stands; not changed.
        weights: sizes T of the adaptive form, by the same names.
        ascent: the path gradient on the images that the ascent may use; called for "ascent" only.
    """
    if settings.kind == "ascent":
        return moved(variables, upwards(settings, weights, ascent(variables)))
    if settings.kind == "path_aware":
        return moved(variables, displacement(variables, -settings.rho))
    return variables


def upwards(
    settings: Sharpness, weights: Mapping[str, Tensor], gradient: Mapping[str, Tensor]
) -> Tensors:
    """eps, plain or adaptive."""
    if settings.adaptive:
        return adaptive_displacement(weights, gradient, settings.rho)
    return displacement(gradient, settings.rho)
