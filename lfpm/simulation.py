"""What an attacker who knows LFPM can simulate on its own images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmark.algebra import norm
from benchmark.models.encoder import Encoder
from benchmark.optimisation.mining import mine
from benchmark.optimisation.prompts import Pool
from benchmark.optimisation.sam import displacement
from benchmark.optimisation.unlabelled import Unlabelled, cross_entropy
from benchmark.types import StateDict, Tensors
from lfpm.partition import along

if TYPE_CHECKING:
    from lfpm.adaptive import Simulation


def top_directions(clean: Tensor, rank: int) -> Tensor:
    """(D,k) the top directions of centred features (N,D), orthonormal; k = min(rank, N, D)."""
    _, _, vectors = torch.linalg.svd(clean - clean.mean(0), full_matrices=False)
    return vectors[:rank].T.contiguous()


def outside(shift: Tensor, own: Tensor, basis: Tensor) -> Tensor:
    """The part of each shift (B,D) outside the span of its own clean feature and the basis.

    Args:
        shift: what the trigger adds to features.
        own: (B,D) the clean features.
        basis: (D,k) orthonormal directions that are clean for every sample; k may be 0.
    """
    rest, axis = (rows - rows @ basis @ basis.T for rows in (shift, own))
    return rest - along(rest, axis)


def anti_backdoor(
    encoder: Encoder,
    weights: StateDict,
    unit: float,
    data: Unlabelled,
    pool: Pool,
    settings: Simulation,
    rng: torch.Generator,
) -> tuple[Tensors, Pool]:
    """A cheap anti-backdoor task vector: prompts are mined, then unlearned in a few steps.

    Each step has the length `settings.stride * unit` and follows the gradient of the cross-entropy
    of prompted and clean images against the model's own clean predictions, at the end point.

    Args:
        encoder: the image tower.
        weights: the model that is to be cleaned; its word on the images is in `data`.
        unit: a length in weight space, the attacker's own task vector's.
        data: images of one task.
        pool: prompts, where their ascent stands.
        settings: steps and sizes.
        rng: draws batches and members.

    Returns:
        tau_sim, without gradient, and the pool after mining.
    """
    pool = mine(encoder, weights, data, pool, settings.mining, rng)
    tau = {name: torch.zeros_like(value) for name, value in weights.items()}
    for _ in range(settings.steps):
        batch = data.draw(settings.batch, rng)
        prompted = pool.apply(batch.images, pool.assign(batch.labels, rng))
        with torch.enable_grad():
            here = {name: (value + tau[name]).requires_grad_() for name, value in weights.items()}
            of_prompted, of_clean = encoder(here, torch.cat([prompted, batch.images])).chunk(2)
            loss = cross_entropy(batch.logits(of_prompted), batch.labels)
            loss = loss + cross_entropy(batch.logits(of_clean), batch.labels)
            gradients = torch.autograd.grad(loss, list(here.values()))
        step = displacement(dict(zip(here, gradients, strict=True)), settings.stride * unit)
        tau = {name: value - step[name] for name, value in tau.items()}
    return tau, pool


def length(weights: StateDict, base: StateDict) -> float:
    """Euclidean length of the attacker's task vector so far."""
    return norm({name: value - base[name] for name, value in weights.items()})


def shifted(weights: Mapping[str, Tensor], tau: Mapping[str, Tensor]) -> Tensors:
    """theta_adv + tau_sim; gradients reach theta_adv only."""
    return {name: value + tau[name] for name, value in weights.items()}
