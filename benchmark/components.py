"""Components: frozen values built from one YAML file each, named by `_target_`.

There is no registry: an option exists because its YAML does, and a class is found by its dotted
path. Everything here works without torch, Hydra or OmegaConf.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, cast, dataclass_transform

import yaml
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from benchmark.errors import BenchError, nearest
from benchmark.store import content_sha256

T = TypeVar("T")
CONF = Path(__file__).parent.parent / "conf"


@dataclass_transform(kw_only_default=True, frozen_default=True)
def component(cls: type[T]) -> type[T]:
    """Make a class a component: frozen, keyword-only, every value checked, unknown keys refused."""
    strict = pydantic_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
    return cast("type[T]", strict(cls))


def options(group: str) -> list[str]:
    """The names a group (say, "merge") has to choose from, sorted."""
    folder = CONF / group
    if not folder.is_dir():
        groups = [path.name for path in CONF.iterdir() if path.is_dir() and path.name[0] != "_"]
        raise BenchError(f"unknown group '{group}'{nearest(group, groups)}")
    return sorted(path.stem for path in folder.glob("*.yaml"))


_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FASTEST):
    """PyYAML's, but for 1e-9: YAML 1.1 takes it for text, Hydra and everybody else for a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), [*"-+0123456789"]
)


@cache
def _read(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(), Loader=_Loader) or {}


def option(group: str, name: str) -> dict[str, Any]:
    """An option by itself: its YAML with what run.yaml's setting says in place of `${setting.KEY}`.

    Other interpolations are left as they are.
    """
    chosen = standard("setting")
    setting = {} if chosen is None else _read(CONF / "setting" / f"{chosen}.yaml")
    return filled(raw_option(group, name), {f"${{setting.{k}}}": v for k, v in setting.items()})


def standard(group: str) -> str | None:
    """The option of a group that run.yaml chooses; None where it chooses none."""
    run = CONF / "run.yaml"
    entries = _read(run)["defaults"] if run.exists() else []
    names = [one[group] for one in entries if isinstance(one, Mapping) and group in one]
    return names[0] if names else None


def filled(value: Any, worth: Mapping[str, Any]) -> Any:
    """Plain JSON with the strings that `worth` knows replaced."""
    if isinstance(value, Mapping):
        return {key: filled(one, worth) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, worth) for one in value]
    return worth.get(value, value) if isinstance(value, str) else value


def raw_option(group: str, name: str) -> dict[str, Any]:
    """The YAML of an option (interpolations unresolved), over the options it is made of.

    Of its defaults list, `parent` (an option of its group that it extends), `other@key` (one of its
    group that becomes its value `key`) and `/group@key: option` are followed; if there is anything
    else, the list stays in the result.
    """
    known = options(group)
    if name not in known:
        raise BenchError(f"unknown {group} '{name}'{nearest(name, known)}")
    node = dict(_read(CONF / group / f"{name}.yaml"))
    below: dict[str, Any] = {}
    left = []
    for entry in node.pop("defaults", ()):
        found = _default(entry, known, group)
        if found is not None:
            below = over(below, found)
        elif entry != "_self_":
            left.append(entry)
    return over(below, node) | ({"defaults": left} if left else {})


def _default(entry: Any, known: Sequence[str], group: str) -> dict[str, Any] | None:
    """What an entry of a defaults list contributes; None where it is not followed."""
    if isinstance(entry, str):
        name, at, place = entry.partition("@")
        if name not in known or (at and not _is_key(place)):
            return None
        return {place: raw_option(group, name)} if at else raw_option(group, name)
    ((key, name),) = entry.items()
    other, _, place = key.removeprefix("/").partition("@")
    return {place: raw_option(other, name)} if key.startswith("/") and _is_key(place) else None


def _is_key(place: str) -> bool:
    """Whether a package of a defaults list is a value of the component itself."""
    return place.isidentifier() and place not in ("_global_", "_group_", "_name_", "_here_")


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings in one; `above` wins."""
    both = {
        key: over(below[key], value)
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
        else value
        for key, value in above.items()
    }
    return {**below, **both}


def locate(target: str) -> type:
    """The class behind a dotted path."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BenchError(f"_target_={target} cannot be imported ({error})") from error


def build(node: Mapping[str, Any], where: str) -> Any:
    """Build the component of a resolved config node.

    Args:
        node: `_target_` and every value of the component; a value that has a `_target_` of its own
            is a component too and built first.
        where: how error messages call it, e.g. "merge".
    """
    values = {
        name: build(value, f"{where}.{name}") if _is_node(value) else value
        for name, value in node.items()
        if name != "_target_"
    }
    cls = locate(node["_target_"])
    try:
        return cls(**values)
    except ValidationError as error:
        raise BenchError(_sentence(error, where, cls)) from error


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _sentence(error: ValidationError, where: str, cls: type) -> str:
    first = error.errors(include_url=False)[0]
    # Where several types are allowed, pydantic adds the name of one, such as "literal['a','b']".
    named = [str(p) for p in first["loc"] if isinstance(p, int) or p.isidentifier()]
    key = ".".join([where, *named])
    if first["type"] == "unexpected_keyword_argument":
        known = [field.name for field in fields(cls)]
        return f"unknown key {key}{nearest(str(first['loc'][-1]), known)}"
    if first["type"] in ("missing_argument", "missing_keyword_only_argument"):
        return f"{key} is missing; give it a value in its YAML or on the command line"
    message = (first["msg"][0].lower() + first["msg"][1:]).removeprefix("value error, ")
    if first["type"] == "value_error":  # of several values together: the message names them
        return f"{key} is not valid: {message}"
    return f"{key}={first['input']!r} is not valid: {message}"


def role(kind: str, part: Any) -> tuple[str, str]:
    """The name a component's random draws have, e.g. ("merge", its dotted path)."""
    return kind, f"{type(part).__module__}.{type(part).__qualname__}"


def values(part: Any) -> dict[str, Any]:
    """A component's values as plain JSON: dicts, lists; of a component within, its identity.

    A component never changes and is asked by each of a sweep's cells: the answer is kept in it.
    """
    known = vars(part)
    if "_plain_values" not in known:
        known["_plain_values"] = _values(part)
    return known["_plain_values"]


def _values(part: Any) -> dict[str, Any]:
    within = {one.name: getattr(part, one.name) for one in fields(part)}
    named = {name: identity(one) for name, one in within.items() if hasattr(one, "version")}
    return json.loads(json.dumps(asdict(part) | named))


def identity(part: Any) -> dict[str, Any]:
    """What a component is, for cache keys: its class, its code's version, every value.

    A component that reads files maps the values that name them to their paths in `files`: the
    content takes the place of the path. One that was given an option after cells had been computed
    without it may say in `neutral` at which value it is what it was: that value is not mentioned.
    Neither are its `unkeyed` values, which say how something is computed and not what. One that
    stands for data says in `content` what it holds, which takes the place of all its values.
    """
    if hasattr(type(part), "content"):
        return {"target": role("", part)[1], "version": part.version, "values": part.content}
    read = {name: content_sha256(path) for name, path in getattr(part, "files", {}).items()}
    target, neutral = role("", part)[1], getattr(part, "neutral", {})
    named = {k: v for k, v in values(part).items() if k not in neutral or v != neutral[k]}
    named = {k: v for k, v in named.items() if k not in getattr(part, "unkeyed", ())}
    return {"target": target, "version": part.version, "values": named | read}
