"""Merging a defended model again, with one honest expert more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from benchmark.algebra import add, cosine, task_vector
from benchmark.components import component
from benchmark.seeds import seed_for
from benchmark.types import Actor, Expert, Grant, Model, StateDict, Stressed, Threat

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.store import Artifact

TRAIN = Grant("train", labels=True)


@component
class Remerge:
    """θ = θ_def + c (θ_t - θ_0): a user adds an honest expert to the defended model.

    Nobody attacks here. The question is whether the defence's change of the weights survives a
    further task vector, or whether the backdoor comes back with it. [ours]

    Attributes:
        task: t, whose expert is added.
        contributor: "same": the honest expert of the suite, whose task vector is in the merge
            already (unless it is the attacker's task); "another": a newcomer's, fine-tuned on the
            same images by the same recipe and adapter with draws of its own.
        scale: c; 0 changes nothing.
    """

    version: ClassVar[int] = 1
    actor: ClassVar[Actor] = "user"
    task: str
    contributor: Literal["same", "another"]
    scale: Annotated[float, Field(ge=0, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """A newcomer's labelled training images; of the same expert only the weights."""
        return (TRAIN,) if self.contributor == "another" else ()

    @property
    def named(self) -> tuple[str, ...]:
        """Whose expert is added."""
        return (self.task,)

    def accepts(self, threats: Sequence[Threat]) -> str | None:
        """Any threats."""
        return None

    def __call__(
        self,
        model: Model,
        base: StateDict,
        experts: Sequence[Expert],
        threats: tuple[Threat, ...],
        ctx: Context,
    ) -> Stressed:
        """Add the scaled task vector; triggers stay as they are."""
        honest = {expert.task: expert for expert in experts}[self.task].weights
        added = honest if self.contributor == "same" else self._newcomer(base, ctx)
        vector = task_vector(added, base)
        info = {"cosine_to_same": cosine(vector, task_vector(honest, base))}
        merged = replace(model, encoder=add(model.encoder, vector, self.scale))
        return Stressed(merged, threats, info)

    def _newcomer(self, base: StateDict, ctx: Context) -> StateDict:
        """Another contributor's weights for the task: computed once per seed."""
        from benchmark.contribution import contribution

        def make() -> Artifact:
            data, seed = ctx.images(self.task, TRAIN), seed_for("newcomer", ctx.seed)
            weights, _ = contribution(base, self.task, data, ctx.narrowed(seed=seed))
            return weights, {}

        tensors, _ = ctx.stage("newcomer", 1, {"task": self.task}, make)
        return {name: value.to(ctx.device) for name, value in tensors.items()}
