"""Training of the anti-backdoor task vector tau_a.

One outer step: mine prompts against weights on the path; accumulate the gradient of the node losses
over the path, at weights displaced by the SAM-like step; update tau_a.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from benchmark.context import Context
from benchmark.optimisation.prompts import assign
from benchmark.optimisation.unlabelled import Batch
from benchmark.training import cosine_rate
from benchmark.types import StateDict, Tensors
from lfpm.adversary import Adversary, Problem, first_adversary, next_adversary
from lfpm.losses import Terms, node_terms
from lfpm.path import PathGradient, nodes, path_gradient
from lfpm.sharpness import sharp_gradient


def train(problem: Problem, steps: int, ctx: Context) -> tuple[Tensors, Adversary]:
    """tau_a and the last adversary, after `steps` outer steps."""
    descent = problem.method.descent
    tau = {
        name: torch.zeros_like(value)
        for name, value in problem.merged.items()
        if value.is_floating_point()
    }
    optimiser = torch.optim.AdamW(list(tau.values()), lr=descent.lr, weight_decay=0.0)
    adversary = first_adversary(problem, ctx)
    for step in range(steps):
        adversary = next_adversary(problem, adversary, tau, step, ctx)
        gradient = outer_gradient(problem, adversary, tau, step, ctx)
        for name, value in tau.items():
            value.grad = gradient.weights[name]
        optimiser.param_groups[0]["lr"] = cosine_rate(descent.lr, descent.warmup, step, steps)
        optimiser.step()
        if gradient.inputs:
            pool = adversary.pool.step(gradient.inputs[0], problem.method.mining.prompts)
            adversary = replace(adversary, pool=pool)
        ctx.progress(step + 1, steps)
    return tau, adversary


def outer_gradient(
    problem: Problem, adversary: Adversary, tau: Tensors, step: int, ctx: Context
) -> PathGradient:
    """The path gradient that updates tau_a; with `mining.free` also the prompts' gradient."""
    method = problem.method
    batch = problem.data.draw(method.descent.batch, ctx.rng("batch", step))
    members = assigned(problem, batch, ctx.rng("members", step))
    quadrature = nodes(method.path, ctx.rng("nodes", step))

    def gradient(tau: Tensors) -> PathGradient:
        values = adversary.pool.values.clone().requires_grad_(method.mining.free)

        def loss(weights: Tensors) -> Tensor:
            return terms_at(problem, adversary, weights, batch, members, values).total(
                method.losses
            )

        inputs = (values,) if method.mining.free else ()
        return path_gradient(loss, problem.merged, tau, quadrature, inputs)

    def ascent(tau: Tensors) -> PathGradient:
        few, rows = batch.first(method.sharpness.batch)

        def loss(weights: Tensors) -> Tensor:
            return terms_at(problem, adversary, weights, few, members[rows]).total(method.losses)

        return path_gradient(loss, problem.merged, tau, quadrature)

    return sharp_gradient(method.sharpness, tau, gradient, ascent)


def assigned(problem: Problem, batch: Batch, rng: torch.Generator) -> Tensor:
    """(T*b,) the prompt of each image."""
    return assign(len(batch.heads), batch.per_task, problem.method.mining.prompts.members, rng)


def terms_at(
    problem: Problem,
    adversary: Adversary,
    weights: StateDict,
    batch: Batch,
    members: Tensor,
    values: Tensor | None = None,
) -> Terms:
    """The node's loss terms: clean and prompted images in one call of the encoder."""
    prompted = adversary.pool.apply(batch.images, members, values)
    features = problem.encoder(weights, torch.cat([batch.images, prompted]))
    clean, shifted = features.split(len(batch.images))
    return node_terms(clean, shifted, batch, adversary.energy, problem.method.losses)
