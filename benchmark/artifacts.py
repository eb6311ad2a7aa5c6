"""How compromises and models are laid out as (tensors, info) artifacts, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmark.attacks.triggers import rebuild_trigger, trigger_state
from benchmark.store import Artifact
from benchmark.types import Compromise, Expert, Model, Stressed, Threat

if TYPE_CHECKING:
    from torch import Tensor


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose name starts with `prefix`, named without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def above(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same tensors with `prefix` before every name."""
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def dump_expert(weights: Mapping[str, Tensor], factors: Mapping[str, Tensor] | None) -> Artifact:
    """The weights by their names and, where there is an adapter, `factors/...`."""
    return {**weights, **above(factors or {}, "factors/")}, {}


def load_expert(tensors: Mapping[str, Tensor], task: str, key: str) -> Expert:
    """Undo `dump_expert`."""
    weights = {k: v for k, v in tensors.items() if not k.startswith("factors/")}
    return Expert(task, weights, key, below(tensors, "factors/") or None)


def dump_compromise(compromise: Compromise) -> Artifact:
    """`expert/<task>/...` and `threat/<i>/...`; tasks, targets and trigger settings in info."""
    tensors, threats = _dump_threats(compromise.threats)
    for task, expert in compromise.experts.items():
        tensors |= above(dump_expert(expert.weights, expert.factors)[0], f"expert/{task}/")
    info = {"info": dict(compromise.info)} if compromise.info else {}
    return tensors, {"experts": list(compromise.experts), "threats": threats, **info}


def load_compromise(tensors: Mapping[str, Tensor], info: Mapping[str, Any], key: str) -> Compromise:
    """Undo `dump_compromise`; experts get the key `<key>/<task>`."""
    experts = {
        task: load_expert(below(tensors, f"expert/{task}/"), task, f"{key}/{task}")
        for task in info["experts"]
    }
    return Compromise(experts, _load_threats(tensors, info["threats"]), info.get("info", {}))


def _dump_threats(threats: Sequence[Threat]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    tensors: dict[str, Tensor] = {}
    nodes = []
    for i, threat in enumerate(threats):
        state, settings = trigger_state(threat.trigger)
        # Threats may share a trigger; in a file each has its own.
        tensors |= above({name: one.clone() for name, one in state.items()}, f"threat/{i}/")
        plain = {"task": threat.task, "target": threat.target, "attackers": list(threat.attackers)}
        nodes.append({**plain, "trigger": settings})
    return tensors, nodes


def _load_threats(
    tensors: Mapping[str, Tensor], nodes: Sequence[Mapping[str, Any]]
) -> tuple[Threat, ...]:
    return tuple(
        Threat(
            trigger=rebuild_trigger(below(tensors, f"threat/{i}/"), node["trigger"]),
            task=node["task"],
            target=node["target"],
            attackers=tuple(node["attackers"]),
        )
        for i, node in enumerate(nodes)
    )


def dump_stressed(stressed: Stressed, model: Model) -> Artifact:
    """`threat/<i>/...` and, if it is not the `model` that came in, the model's `encoder/...`."""
    tensors, threats = _dump_threats(stressed.threats)
    changed = stressed.model is not model
    if changed:
        tensors |= above(dict(stressed.model.encoder), "encoder/")
    return tensors, {"changed": changed, "threats": threats, "info": dict(stressed.info)}


def load_stressed(tensors: Mapping[str, Tensor], info: Mapping[str, Any], model: Model) -> Stressed:
    """Undo `dump_stressed`; `model` is the one that came in."""
    if info["changed"]:
        model = replace(model, encoder=below(tensors, "encoder/"))
    return Stressed(model, _load_threats(tensors, info["threats"]), info["info"])


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
