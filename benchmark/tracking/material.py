"""What the store adds to a record: curves of its stages, and pictures. Torch only for pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.history import Series
from benchmark.records import Record
from benchmark.store import Store

if TYPE_CHECKING:
    from benchmark.report.pictures import Picture


def curves(record: Record, store: Store) -> dict[str, dict[str, Series]]:
    """What contributors, the attack and the defence measured on their way, by section.

    Stages that are not in the store, or were made before curves were kept, add nothing.
    """
    parents = record.parents
    experts: dict[str, Series] = {}
    for task, key in (parents.get("experts") or {}).items():
        if "/" not in key:  # an attacker's is the attack's
            experts |= {
                task if name == "loss" else f"{task}_{name}": points
                for name, points in _history(store, ("expert",), key).items()
            }
    return {
        "experts": experts,
        "attack": _history(store, ("attack",), parents.get("attack")),
        "defense": _history(store, ("defend", "merge"), parents.get("model")),
    }


def _history(store: Store, stages: tuple[str, ...], key: str | None) -> dict[str, Series]:
    for stage in stages:
        if key and store.has(stage, key):
            return store.info(stage, key)["made"].get("history", {})
    return {}


def pictures(record: Record, store: Store) -> dict[str, list[Picture]]:
    """The report's pictures: what the triggers do, and the prompts mined for their tasks.

    None where the images, the attack or the model are not in the store.
    """
    from benchmark.report.pictures import prompts, triggers

    return {"trigger": triggers([record], store), "prompts": list(prompts(record, store))}
