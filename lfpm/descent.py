"""Training of the anti-backdoor task vector tau_a.

One outer step: mine prompts against weights on the path; accumulate the gradient of the node losses
over the path, at variables displaced by the SAM-like step; update the variables of tau_a.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.context import Context
from benchmark.optimisation.prompts import Given
from benchmark.optimisation.unlabelled import Batch
from benchmark.training import cosine_rate
from benchmark.types import StateDict, Tensors
from lfpm.adversary import Adversary, Problem, attacked, first_adversary, next_adversary
from lfpm.losses import Terms, node_terms
from lfpm.path import Ascent, PathGradient, nodes, path_gradient
from lfpm.per_image import own_prompts
from lfpm.selection import Trial
from lfpm.sharpness import displaced, upwards
from lfpm.stopping import Stopping, due


@dataclass(frozen=True)
class Trained:
    """Where training ended.

    Attributes:
        tau: the anti-backdoor task vector, over all float tensors (0 where an adapter has none).
        adversary: the last prompts and partitions.
        steps: outer steps taken.
        looks: what was found on the way, where training may end before its last step.
    """

    tau: Tensors
    adversary: Adversary
    steps: int
    looks: tuple[Trial, ...]


def train(problem: Problem, steps: int, ctx: Context, stopping: Stopping | None = None) -> Trained:
    """tau_a after `steps` outer steps, or fewer if a look on the way says that it is enough."""
    descent, form = problem.method.descent, problem.form
    variables = {name: value.clone() for name, value in form.start.items()}
    optimiser = torch.optim.AdamW(list(variables.values()), lr=descent.lr, weight_decay=0.0)
    adversary = first_adversary(problem, ctx)
    found: list[Trial] = []
    for step in range(steps):
        with torch.no_grad():
            tau = form.vector(variables)
        if stopping is not None and step in due(steps):
            found.append(stopping.look(tau, ctx))
            if stopping.enough(found[-1]):
                return Trained(_whole(tau, problem.merged), adversary, step, tuple(found))
        adversary = next_adversary(problem, adversary, tau, step, ctx)
        gradient, adversary = outer_gradient(problem, adversary, variables, step, ctx)
        for name, value in variables.items():
            value.grad = gradient[name]
        optimiser.param_groups[0]["lr"] = cosine_rate(descent.lr, descent.warmup, step, steps)
        optimiser.step()
        ctx.progress(step + 1, steps)
    with torch.no_grad():
        tau = form.vector(variables)
    return Trained(_whole(tau, problem.merged), adversary, steps, tuple(found))


def _whole(tau: Tensors, merged: StateDict) -> Tensors:
    """tau_a as an ordinary task vector: every float tensor, of the merged model's type."""
    return {
        name: tau[name].to(value) if name in tau else torch.zeros_like(value)
        for name, value in merged.items()
        if value.is_floating_point()
    }


def outer_gradient(
    problem: Problem, adversary: Adversary, variables: Tensors, step: int, ctx: Context
) -> tuple[Tensors, Adversary]:
    """The gradient that updates the variables; with `mining.free` also the prompts' next step."""
    method, form = problem.method, problem.form
    quadrature = nodes(method.path, ctx.rng("nodes", step))
    count = len(quadrature) if method.path.share else 1
    faced, shown = _faced(problem, adversary, variables, step, count, ctx)
    values = faced.pool.values.clone().requires_grad_(method.mining.free)

    def path_at(variables: Tensors, images: int, inputs: tuple[Tensor, ...]) -> PathGradient:
        def loss(weights: Tensors, k: int) -> Tensor:
            batch, given = _first(*shown[k % count], images)
            content = inputs[0] if inputs else None
            return terms_at(problem, faced, weights, batch, given, content).total(method.losses)

        with torch.no_grad():
            tau = form.vector(variables)
        return path_gradient(loss, problem.merged, tau, quadrature, inputs, _ascent(problem))

    def ascent(variables: Tensors) -> Tensors:
        found = path_at(variables, method.sharpness.batch, ())
        return form.pulled_back(variables, found.weights)

    there = displaced(method.sharpness, variables, _sizes(problem, variables), ascent)
    found = path_at(there, method.descent.batch, (values,) if method.mining.free else ())
    noted = {"reached": adversary.pool.reached, "captured": adversary.share}
    ctx.watch(step, {"loss": found.value, **noted})
    if found.inputs:
        members = torch.cat([given.members for _, given in shown])
        pool = adversary.pool.step(found.inputs[0], members)
        adversary = replace(adversary, pool=pool)
    return form.pulled_back(there, found.weights), adversary


def _sizes(problem: Problem, variables: Tensors) -> Tensors:
    """What T of the adaptive form is the size of: the weights, or an adapter's factors."""
    if not problem.method.sharpness.adaptive:
        return variables
    with torch.no_grad():
        tau = problem.form.vector(variables)
    return {
        name: problem.merged[name] + tau[name] if name in problem.merged else value
        for name, value in variables.items()
    }


def _ascent(problem: Problem) -> Ascent | None:
    """The displacement of each node's own weights, where that is the SAM-like step."""
    sharpness = problem.method.sharpness
    if sharpness.kind != "node_ascent":
        return None
    return lambda weights, gradient: upwards(sharpness, weights, gradient)


def _faced(
    problem: Problem, adversary: Adversary, variables: Tensors, step: int, count: int, ctx: Context
) -> tuple[Adversary, list[tuple[Batch, Given]]]:
    """What a step's batches meet, and which prompt each image has: those mined, or one each."""
    shown = [_shown(problem, adversary, step, place, ctx) for place in range(count)]
    rule = problem.method.per_image
    if rule is None:
        return adversary, shown
    with torch.no_grad():
        weights = attacked(problem, problem.form.vector(variables), step, ctx)
    batches = [batch for batch, _ in shown]
    pool, own = own_prompts(problem, rule, batches, weights, ctx, ("per image", step))
    return replace(adversary, pool=pool), own


def _shown(
    problem: Problem, adversary: Adversary, step: int, place: int, ctx: Context
) -> tuple[Batch, Given]:
    """A batch and its prompts; the same for all nodes, or one for each."""
    batch = problem.data.draw(problem.method.descent.batch, ctx.rng("batch", step, place))
    return batch, adversary.pool.assign(batch.labels, ctx.rng("given", step, place))


def _first(batch: Batch, given: Given, images: int) -> tuple[Batch, Given]:
    """The first images of every task, and their prompts."""
    few, rows = batch.first(images)
    return few, given.rows(rows)


def terms_at(
    problem: Problem,
    adversary: Adversary,
    weights: StateDict,
    batch: Batch,
    given: Given,
    values: Tensor | None = None,
) -> Terms:
    """The node's loss terms: clean and prompted images in one call of the encoder."""
    prompted = adversary.pool.apply(batch.images, given, values)
    features = problem.encoder(weights, torch.cat([batch.images, prompted]))
    clean, shifted = features.split(len(batch.images))
    return node_terms(clean, shifted, batch, adversary.energy, problem.method.losses)
