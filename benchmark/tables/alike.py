"""What of a resolved config tells cells apart: what `identity` mentions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from benchmark.components import locate
from benchmark.errors import BenchError
from benchmark.suite import Suite

Unmentioned = tuple[Mapping[str, Any], Collection[str]]


def telling(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without its seed and without values that no key mentions.

    A component may have been given an option after cells had been computed without it. Records
    from before lack it, later ones hold its `neutral` value, and both are the same cell.
    `unkeyed` values say how something was computed and not what.
    """
    bare = {name: _bare(value) for name, value in config.items() if name != "seed"}
    if isinstance(bare.get("suite"), dict):
        bare["suite"] = _without(bare["suite"], (Suite.neutral, ()))
    return bare


def _bare(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    node = {name: _bare(one) for name, one in value.items()}
    return _without(node, _unmentioned(node["_target_"])) if "_target_" in node else node


def _without(node: Mapping[str, Any], unmentioned: Unmentioned) -> dict[str, Any]:
    neutral, unkeyed = unmentioned
    return {
        name: value
        for name, value in node.items()
        if name not in unkeyed and (name not in neutral or value != neutral[name])
    }


@cache
def _unmentioned(target: str) -> Unmentioned:
    """What the class says of itself; nothing if it is gone."""
    try:
        cls = locate(target)
    except BenchError:
        return {}, ()
    return getattr(cls, "neutral", {}), getattr(cls, "unkeyed", ())
