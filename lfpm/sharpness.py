"""The SAM-like step: where the path gradient is taken.

none         G(tau_a)
ascent       G(tau_a + rho G/|G|), G accumulated over all nodes of the path
path_aware   G(tau_a - rho tau_a/|tau_a|): nearer to the backdoored model, without ascent
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from benchmark.optimisation.sam import displacement, moved
from benchmark.types import Tensors
from lfpm.choices import Sharpness
from lfpm.path import PathGradient

GradientAt: TypeAlias = "Callable[[Tensors], PathGradient]"


def sharp_gradient(
    settings: Sharpness, tau: Tensors, gradient: GradientAt, ascent: GradientAt
) -> PathGradient:
    """The gradient that updates tau_a.

    Args:
        settings: kind and rho.
        tau: tau_a; not changed.
        gradient: the path gradient at a given anti-backdoor vector.
        ascent: the same on the images that the ascent may use; only called for "ascent".
    """
    if settings.kind == "ascent":
        tau = moved(tau, displacement(ascent(tau).weights, settings.rho))
    elif settings.kind == "path_aware":
        tau = moved(tau, displacement(tau, -settings.rho))
    return gradient(tau)
