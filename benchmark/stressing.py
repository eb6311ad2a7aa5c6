"""A cell's stress: what its key says, and how it is applied to one of the cell's models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmark.artifacts import dump_stressed
from benchmark.components import identity, role
from benchmark.errors import BenchError, nearest
from benchmark.memoised import Incompatible
from benchmark.store import key_of

if TYPE_CHECKING:
    from benchmark.bench import Bench
    from benchmark.cell import Cell
    from benchmark.store import Artifact
    from benchmark.types import Model


def stress_inputs(cell: Cell, subject: str) -> dict[str, Any] | None:
    """What the key of a stressed subject says; None where it is measured as it is.

    Single models are no merges: they are measured as they are, with the planted triggers.
    """
    if getattr(cell.stress, "transparent", False) or subject.endswith("_single"):
        return None
    return {
        "stress": identity(cell.stress),
        "model": cell.model_key(subject),
        "threats": key_of(*cell.compromise()),
        "experts": {task: key_of(*cell.expert(task)) for task in cell.suite.tasks},
        "scope": cell.scope(stress_tasks(cell)),
        "seed": cell.seed,
    }


def stress_tasks(cell: Cell) -> tuple[str, ...]:
    """Tasks whose heads a stress may use: an attacker's, or a user's, who has them all."""
    return cell.attack_tasks if cell.stress.actor == "attacker" else cell.suite.tasks


def check_stress(cell: Cell) -> None:
    """Refuse a stress that names a task which is not merged."""
    for task in cell.stress.named:
        if task not in cell.suite.tasks:
            said = nearest(task, cell.suite.tasks)
            raise BenchError(f"stress names '{task}', which is not among the merged tasks{said}")


def stress(bench: Bench, model: Model) -> Artifact:
    """The stressed model and its threats; an attacker sees its own tasks' images only."""
    cell, part, threats = bench.cell, bench.cell.stress, bench.compromise().threats
    if reason := part.accepts(threats):
        raise Incompatible(reason)
    ctx = bench.context(role("stress", part), part.needs, stress_tasks(cell))
    ctx = ctx.narrowed(adapters=model.adapters)
    if part.actor == "attacker":
        owned = cell.attack.adversaries or tuple(dict(cell.victims))
        ctx = replace(ctx, visible=frozenset(owned))
    honest = [bench.expert(task) for task in cell.suite.tasks]
    return dump_stressed(part(model, bench.base, honest, threats, ctx), model)
