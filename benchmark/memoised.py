"""The merge as a defence receives it: remembered, and with a context of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmark.bench import Bench
    from benchmark.context import Context
    from benchmark.types import Expert, Model, StateDict


class Incompatible(Exception):
    """A pair that does not fit: its cells are skipped with this reason."""


@dataclass(frozen=True)
class Memoised:
    """A merge whose result for one side's experts, `model`, is there already."""

    bench: Bench
    side: str
    model: Model

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """The undefended merge of this side, or a merge of other experts, made afresh."""
        if [expert.key for expert in experts] == [e.key for e in self.bench.experts(self.side)]:
            return self.model
        return self.bench.cell.merge(base, experts, self.bench.merge_context())

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """What the merge itself says."""
        return self.bench.cell.merge.accepts(experts)
