"""A smaller merging coefficient: the plainest way to weaken a backdoor, and everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.algebra import add, task_vector
from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.selection import (
    FORWARD,
    agreement,
    count_images,
    dev_parts,
    passes_used,
    predict_tasks,
)
from benchmark.types import Expert, Grant, Images, Merge, Model, Place, StateDict

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class ScaleLambda:
    """θ_0 + s (θ_m - θ_0) with the smallest s that changes few clean predictions.

    For task arithmetic and TIES this is the same merge with λ times s. The rule uses unlabelled dev
    images only: predictions of the scaled model must agree with those of the undefended one on a
    share of at least 1 - `max_disagreement` of the selection third, averaged over tasks. Agreement
    at s = 1 is 1, so the rule always has an answer.

    Attributes:
        scales: the values of s that are tried; 1 must be among them.
        max_disagreement: share of clean predictions that may change.
        images: dev images per task; nothing is trained, so only the selection third is used.
        passes: image passes; fewer images are used if the grid would cost more.
    """

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"
    scales: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=1)]
    max_disagreement: Annotated[float, Field(ge=0, le=1)]
    images: Annotated[int, Field(ge=3)]
    passes: Annotated[int, Field(ge=0)]

    def __post_init__(self) -> None:
        """Refuse a grid in which no value may satisfy the rule."""
        if 1 not in self.scales:
            raise ValueError(f"scales={list(self.scales)} has no 1, the undefended merge; add it")

    @property
    def needs(self) -> tuple[Grant, ...]:
        """Unlabelled dev images."""
        return (Grant("dev", labels=False, per_task=self.images),)

    def accepts(self, merge: Merge) -> str | None:
        """Any merge."""
        return None

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Move the merged model toward the base as far as the rule allows."""
        model = merge(base, experts, ctx)
        before = passes_used(ctx.encoder)
        tasks = list(dict.fromkeys(expert.task for expert in experts))
        _, select = dev_parts(ctx, tasks, self.needs[0])
        select = self._affordable(select)
        reference = predict_tasks(ctx, model.encoder, select)
        delta, curve = task_vector(model.encoder, base), {}
        for scale in sorted(self.scales):
            found = predict_tasks(ctx, add(base, delta, scale), select)
            shares = [agreement(found[task], reference[task]) for task in tasks]
            curve[scale] = sum(shares) / len(shares)
        chosen = smallest_agreeing(curve, self.max_disagreement)
        info = {
            "chosen_scale": chosen,
            "agreement": [[scale, share] for scale, share in curve.items()],
            "images": count_images(select),
            "passes": passes_used(ctx.encoder) - before,
            "merge": dict(model.info),
        }
        return replace(model, encoder=add(base, delta, chosen), info=info)

    def _affordable(self, select: Mapping[str, Images]) -> dict[str, Images]:
        """The first images of each task, as many as `passes` pays for."""
        price = FORWARD * (len(self.scales) + 1) * len(select)
        rows = int(self.passes / price)
        if rows == 0:
            raise BenchError(
                f"budget.passes={self.passes} is too small to try {len(self.scales)} scales on one "
                f"image of each of {len(select)} tasks; give at least {int(price) + 1}"
            )
        return {task: Images(part.images[:rows], None) for task, part in select.items()}


def smallest_agreeing(curve: Mapping[float, float], max_disagreement: float) -> float:
    """The smallest scale whose agreement is at least 1 - max_disagreement."""
    # 1e-9: 1 - 0.03 in binary must not refuse an agreement of exactly 97 %.
    return min(s for s, share in curve.items() if share >= 1 - max_disagreement - 1e-9)
