"""An anti-backdoor task vector computed on one merge, added to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from benchmark.components import component, identity, role
from benchmark.errors import BenchError
from benchmark.types import Expert, Grant, Merge, Model, Place, StateDict, Tensors
from lfpm.method import Lfpm

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class Transfer:
    """θ_m' + λ_a τ_a, with τ_a and λ_a from another merge of the same experts.

    LFPM is run on the merge `origin`, whatever merge the cell has; its vector is then added to the
    cell's own merge at the λ_a that was chosen there. Where both merges are the same this is LFPM
    itself, bit for bit. To carry τ_a over to other experts or another seed, export it
    (`lfpm-bench export-vector`) and use `defense=task_vector`. [ours]

    Attributes:
        origin: the merge that τ_a is computed on.
        source: LFPM's own values.
    """

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"

    origin: Any
    source: Lfpm

    @property
    def needs(self) -> tuple[Grant, ...]:
        """What LFPM and the merge of origin may see."""
        return (*self.source.needs, *self.origin.needs)

    @property
    def passes(self) -> int:
        """LFPM's budget."""
        return self.source.passes

    def accepts(self, merge: Merge) -> str | None:
        """Every merge: only its result is used."""
        return self.source.accepts(merge)

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Compute τ_a on the merge of origin (once for all merges it is added to), and add it."""
        from benchmark.algebra import add
        from benchmark.artifacts import below

        artifacts, found = self._source(base, experts, ctx)
        tau = below(artifacts, "tau_a/")
        merged = merge(base, experts, ctx)
        return replace(
            merged,
            encoder=add(merged.encoder, tau, found["lambda_a"]),
            artifacts={**merged.artifacts, **artifacts},
            info={**found, "origin": found["merge"], "merge": dict(merged.info)},
        )

    def _source(
        self, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> tuple[Tensors, dict[str, Any]]:
        """LFPM's artifacts and info on the merge of origin."""
        inputs = {
            "origin": identity(self.origin),
            "source": identity(self.source),
            "experts": {expert.task: expert.key for expert in experts},
        }

        def make() -> tuple[Tensors, dict[str, Any]]:
            if reason := self.origin.accepts(experts):
                raise BenchError(f"defense.origin cannot merge these experts: {reason}")
            # Each part draws as it would on its own, so that equal merges give equal vectors.
            merged = self.origin(base, experts, _acting("merge", self.origin, ctx))
            given: Any = lambda *_: merged  # noqa: E731
            acting = _acting("defense", self.source, ctx).narrowed(adapters=merged.adapters)
            model = self.source(given, base, experts, acting)
            return dict(model.artifacts), dict(model.info)

        tensors, info = ctx.stage("transfer_source", 1, inputs, make)
        return {name: value.to(ctx.device) for name, value in tensors.items()}, info


def _acting(kind: str, part: Any, ctx: Context) -> Context:
    """The context that `part` would have in a cell of its own."""
    return ctx.narrowed(role=role(kind, part), granted=part.needs, adapters={})
