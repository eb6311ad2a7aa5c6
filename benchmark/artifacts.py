"""How compromises and models are laid out as (tensors, info) artifacts, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark.attacks.triggers import rebuild_trigger, trigger_state
from benchmark.store import Artifact
from benchmark.types import Compromise, Expert, Model, Threat

if TYPE_CHECKING:
    from torch import Tensor


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose name starts with `prefix`, named without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def above(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors with `prefix` before every name."""
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def dump_compromise(compromise: Compromise) -> Artifact:
    """`expert/<task>/...` and `threat/<i>/...`; tasks, targets and trigger settings in info."""
    tensors: dict[str, Tensor] = {}
    for task, expert in compromise.experts.items():
        tensors |= above(dict(expert.weights), f"expert/{task}/")
    threats = []
    for i, threat in enumerate(compromise.threats):
        state, settings = trigger_state(threat.trigger)
        tensors |= above(state, f"threat/{i}/")
        plain = {"task": threat.task, "target": threat.target, "attackers": list(threat.attackers)}
        threats.append({**plain, "trigger": settings})
    return tensors, {"experts": list(compromise.experts), "threats": threats}


def load_compromise(tensors: Mapping[str, Tensor], info: Mapping[str, Any], key: str) -> Compromise:
    """Undo `dump_compromise`; experts get the key `<key>/<task>`."""
    experts = {
        task: Expert(task, below(tensors, f"expert/{task}/"), f"{key}/{task}")
        for task in info["experts"]
    }
    threats = [
        Threat(
            trigger=rebuild_trigger(below(tensors, f"threat/{i}/"), node["trigger"]),
            task=node["task"],
            target=node["target"],
            attackers=tuple(node["attackers"]),
        )
        for i, node in enumerate(info["threats"])
    ]
    return Compromise(experts, tuple(threats))


def dump_model(model: Model) -> Artifact:
    """`encoder/...`, `artifact/...` and `adapter/<task>/...`; the model's info as it is."""
    tensors = above(dict(model.encoder), "encoder/") | above(dict(model.artifacts), "artifact/")
    for task, adapter in model.adapters.items():
        tensors |= above(dict(adapter), f"adapter/{task}/")
    return tensors, {"adapters": list(model.adapters), "info": dict(model.info)}


def load_model(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Model:
    """Undo `dump_model`."""
    return Model(
        encoder=below(tensors, "encoder/"),
        adapters={task: below(tensors, f"adapter/{task}/") for task in info["adapters"]},
        artifacts=below(tensors, "artifact/"),
        info=info["info"],
    )
