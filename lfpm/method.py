"""LFPM as a defence: an anti-backdoor task vector added to the merged model.

A RECONSTRUCTION from the abstract of arXiv 2606.12498 (ICML 2026) and one third-party reading note;
the method section, the algorithm, the hyper-parameters and the code were not available. The stated
parts are here: an orthogonal partition of feature space, adversarial features mined with a visual
prompt, a loss integrated over the interpolation path with gradient accumulation, a SAM-like step.
How they are put together is ours; docs/lfpm.md lists every choice, and `lfpm.choices` its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.algebra import add, norm, task_vector
from benchmark.components import component
from benchmark.selection import dev_parts, passes_used
from benchmark.types import Expert, Grant, Merge, Model, Place, StateDict, Tensors
from lfpm.choices import (
    Descent,
    Losses,
    Metric,
    Mining,
    Partitioning,
    Path,
    PerImage,
    Selection,
    Sharpness,
)

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.optimisation.unlabelled import Unlabelled
    from lfpm.adversary import Adversary, Problem
    from lfpm.selection import Trial


@component
class Lfpm:
    """Linear Feature Path Minimization.

    theta_def = theta_m + lambda_a tau_a, where tau_a minimises the node loss integrated over
    theta(alpha) = theta_m + alpha tau_a. It sees unlabelled dev images of the merged
    tasks and, with `mining.scouting`, the contributors' own models.
    Per-task adapters of the merge are used as they are, and passed on.

    Attributes:
        images: unlabelled dev images per task (C9: the data access of AdaMerging); two thirds train
            tau_a, one third chooses lambda_a.
        passes: image passes in all, never exceeded; the number of steps follows from it.
        partition: feature-subspace partition. [note]
        mining: prompt-based adversarial feature mining (C7, C8). [note] "a learnable visual prompt
            encodes the adversarial perturbation"; form, pool and objective are [ours].
        per_image: perturbations of single images in place of prompts; None: prompts. [ours]
        path: loss path-integral with gradient accumulation. [stated]
        losses: suppression and preservation. [stated] as an aim, [ours] as terms.
        sharpness: SAM-like step. [note]
        metric: the coordinates of the descent. [ours]
        descent: the optimiser. [ours]
        selection: the choice of lambda_a. [ours]
    """

    version: ClassVar[int] = 3
    place: ClassVar[Place] = "after"
    neutral: ClassVar[Mapping[str, Any]] = {"per_image": None}

    images: Annotated[int, Field(ge=3)]
    passes: Annotated[int, Field(ge=1)]
    partition: Partitioning
    mining: Mining
    per_image: PerImage | None
    path: Path
    losses: Losses
    sharpness: Sharpness
    metric: Metric
    descent: Descent
    selection: Selection

    def __post_init__(self) -> None:
        """Refuse steps of prompts that no image is given."""
        if self.per_image is not None and self.mining.free:
            raise ValueError(
                "mining.free=True steps shared prompts; with per_image, set it to false"
            )

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Dev images of the merged tasks, without labels."""
        return (Grant("dev", labels=False, per_task=self.images),)

    def accepts(self, merge: Merge) -> str | None:
        """Every merge: of it only the result is used."""
        return None

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Train tau_a on the merged model, choose lambda_a, add."""
        from lfpm.budget import plan
        from lfpm.descent import train
        from lfpm.selection import choose, looks
        from lfpm.stopping import stopping

        merged = merge(base, experts, ctx)
        before = passes_used(ctx.encoder)
        problem, held = self._prepare(merged.encoder, experts, ctx)
        steps = plan(self, len(held.tasks), problem.data.total, held.total)
        ends = stopping(self.selection, self.descent.stop, merged.encoder, held, ctx)
        trained = train(problem, steps, ctx, ends)
        tau, adversary = trained.tau, trained.adversary
        look = looks(self.selection, merged.encoder, held, ctx)

        def tried(scale: float) -> Trial:
            return look(scale, add(merged.encoder, tau, scale))

        choice = choose(self.selection, tried)
        info = {
            "lambda_a": choice.scale,
            "selection": choice.summary(),
            "steps": trained.steps,
            "looks": [asdict(found) for found in trained.looks],
            "reached": adversary.pool.reached,
            "captured": adversary.share,
            "tau_norm": _relative_norm(tau, merged.encoder, base),
            "losses": _final_losses(problem, adversary, tau, ctx),
            "images": problem.data.total + held.total,
            "passes": passes_used(ctx.encoder) - before,
            "merge": dict(merged.info),
        }
        return replace(
            merged,
            encoder=add(merged.encoder, tau, choice.scale),
            artifacts={**merged.artifacts, **_artifacts(tau, adversary, held.tasks)},
            info=info,
        )

    def _prepare(
        self, merged: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> tuple[Problem, Unlabelled]:
        """Features of theta_m on all images, once; two thirds to train, one third to select."""
        from benchmark.models.moments import recorded
        from benchmark.optimisation.unlabelled import freeze
        from lfpm.adversary import Problem
        from lfpm.vector import adapter, dense, metric_maps

        tasks = list(dict.fromkeys(expert.task for expert in experts))
        trained, held = dev_parts(ctx, tasks, self.needs[0])
        with recorded(ctx.encoder, merged) as moments:
            data = freeze(ctx, merged, trained)
        maps = metric_maps(self.metric, moments.means())
        if ctx.peft is None:
            form = dense(merged, maps)
        else:
            form = adapter(ctx.peft, merged, maps, ctx.rng("adapter"))
        uploads = tuple(
            tuple(expert.weights for expert in experts if expert.task == task) for task in tasks
        )
        problem = Problem(self, ctx.encoder, merged, data, data.mean_squared_norm(), form, uploads)
        return problem, freeze(ctx, merged, held)


def _relative_norm(tau: Tensors, merged: StateDict, base: StateDict) -> float:
    """|tau_a| / |theta_m - theta_0|."""
    moved = norm(task_vector(merged, base))
    return norm(tau) / moved if moved else 0.0


def _final_losses(
    problem: Problem, adversary: Adversary, tau: Tensors, ctx: Context
) -> dict[str, float]:
    """The four terms at alpha = 1 with the last prompts, on one batch of training images."""
    import torch

    from lfpm.descent import terms_at
    from lfpm.path import at
    from lfpm.per_image import own_prompts

    rng = ctx.rng("report")
    batch = problem.data.draw(problem.method.descent.batch, rng)
    weights = at(problem.merged, tau, 1.0)
    given = adversary.pool.assign(batch.labels, rng)
    if problem.method.per_image is not None:
        own = own_prompts(problem, problem.method.per_image, [batch], weights, ctx, ("report", 0))
        adversary, ((_, given),) = replace(adversary, pool=own[0]), own[1]
    with torch.no_grad():
        terms = terms_at(problem, adversary, weights, batch, given)
    return {name: float(value) for name, value in vars(terms).items()}


def _artifacts(tau: Tensors, adversary: Adversary, tasks: Sequence[str]) -> Tensors:
    """tau_a/NAME; prompt/TASK (M,3,H,W), values within the masks; mask/TASK (M,1,H,W).

    A moving prompt lies in the upper left corner; those of a task follow one another goal by goal.
    """
    pool = adversary.pool
    prompts = dict(zip(tasks, pool.values.split(list(pool.sizes)), strict=True))
    masks = dict(zip(tasks, pool.masks.split(list(pool.sizes)), strict=True))
    return {
        **{f"tau_a/{name}": value for name, value in tau.items()},
        **{f"prompt/{task}": value.contiguous() for task, value in prompts.items()},
        **{f"mask/{task}": value.contiguous() for task, value in masks.items()},
    }
