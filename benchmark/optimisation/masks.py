"""Masks over a task vector, relaxed from Bernoulli variables so that they can be learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.types import StateDict, Tensors


def zero_logits(vector: StateDict) -> Tensors:
    """Logits of the mask that changes nothing: float32 zeros, one per entry of a task vector."""
    return {name: torch.zeros_like(value, dtype=torch.float32) for name, value in vector.items()}


def median_mask(logits: StateDict, temperature: float) -> Tensors:
    """The mask without chance: sigmoid(logits / temperature), divided by its mean per tensor.

    The entry-wise median of `sampled_mask` before the division, and its expectation where the logit
    is 0. Equal logits give ones.
    """
    return {name: _scaled(value / temperature) for name, value in logits.items()}


def sampled_mask(logits: StateDict, temperature: float, rng: torch.Generator) -> Tensors:
    """A relaxed Bernoulli draw (Maddison et al., ICLR 2017), divided by its mean per tensor."""

    def noisy(value: Tensor) -> Tensor:
        uniform = torch.rand(value.shape, generator=rng).clamp(1e-6, 1 - 1e-6)
        return value + uniform.logit().to(value.device)

    return median_mask({name: noisy(value) for name, value in logits.items()}, temperature)


def _scaled(value: Tensor) -> Tensor:
    mask = value.sigmoid()
    return mask / mask.mean()


def masked(base: StateDict, vector: StateDict, mask: StateDict) -> Tensors:
    """Weights base + mask * vector, differentiable by the mask; what has no mask is the base's."""
    return {
        name: (value + mask[name] * vector[name]).to(value.dtype) if name in mask else value
        for name, value in base.items()
    }
