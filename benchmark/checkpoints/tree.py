"""From the inert tree of a pickle to named tensors, and what it says of the model beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from benchmark.checkpoints.archives import Archive, Storage
from benchmark.checkpoints.inert import Made
from benchmark.checkpoints.names import Named
from benchmark.errors import BadCheckpoint

if TYPE_CHECKING:
    from torch import Tensor

DEEPEST = 64
"""Levels of modules within modules."""
MODULES = 100_000
"""Modules of one model; shared ones count as often as they are met."""
MAPPINGS = ("collections.OrderedDict", "collections.defaultdict", "builtins.dict")
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
"""Under which of its keys a training checkpoint may have the model, best first."""


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as a file describes it: a view of a storage. Nothing is read before it is asked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def load(self, archive: Archive) -> Tensor:
        """The numbers, contiguous, as the file has them."""
        import torch

        if not prod(self.shape):
            return torch.empty(self.shape, dtype=getattr(torch, self.storage.dtype))
        data = archive.read(self.storage)
        flat = torch.frombuffer(data, dtype=getattr(torch, self.storage.dtype))
        return flat.as_strided(self.shape, self.strides, self.offset).clone(
            memory_format=torch.contiguous_format
        )


def tensors_of(root: Any) -> tuple[dict[str, View], list[str]]:
    """The tensors of a module, a state dict or a checkpoint that holds one of them.

    Returns:
        Name -> tensor, and the names of what stood beside the model and is left out.

    Raises:
        BadCheckpoint: there is no model, or it is none that can be told.
    """
    beside: list[str] = []
    for _ in range(DEEPEST):
        if isinstance(root, Made) and _parts(root) is not None:
            return _state_dict(root), beside
        found = mapping_of(root)
        if found is None:
            raise BadCheckpoint("it holds neither a model nor a state dict")
        views = {str(name): view_of(value) for name, value in found.items()}
        if any(views.values()):
            beside += [name for name, view in views.items() if view is None]
            return {name: view for name, view in views.items() if view}, beside
        key = next((key for key in WRAPPERS if key in found), None)
        if key is None:
            said = ", ".join(sorted(views)[:6]) or "nothing"
            raise BadCheckpoint(f"it holds no tensors by name ({said})")
        beside += [name for name in views if name != key]
        root = found[key]
    raise BadCheckpoint("its model lies too deep")


def mapping_of(value: Any) -> Mapping[Any, Any] | None:
    """A dict or what would become one; None for anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Made) or str(value.maker) not in MAPPINGS:
        return None
    # Python 2 wrote OrderedDict([[key, value], ...]).
    given = value.args[0] if value.args and isinstance(value.args[0], list) else []
    pairs = [one for one in given if isinstance(one, list | tuple) and len(one) == 2]
    return {key: one for key, one in pairs if isinstance(key, str)} | value.pairs


def state_of(made: Made) -> Mapping[Any, Any]:
    """The attributes an object would have."""
    parts = made.state if isinstance(made.state, tuple) else (made.state,)
    return {key: value for part in parts for key, value in (mapping_of(part) or {}).items()}


def _parts(made: Made) -> Mapping[Any, Any] | None:
    """The attributes of a torch module; None for any other object."""
    state = state_of(made)
    return state if {"_parameters", "_modules"} <= state.keys() else None


def _state_dict(root: Made) -> dict[str, View]:
    """Parameters and persistent buffers as `state_dict()` would name them."""
    found: dict[str, View] = {}
    waiting, met = [("", root, 0)], 0
    while waiting:
        prefix, made, depth = waiting.pop()
        state, met = _parts(made), met + 1
        if state is None or depth > DEEPEST or met > MODULES:
            raise BadCheckpoint(f"its module '{prefix[:80]}' is none that can be read")
        found |= {f"{prefix}{name}": view for name, view in _own(state)}
        below = mapping_of(state["_modules"]) or {}
        waiting += [
            (f"{prefix}{name}.", one, depth + 1)
            for name, one in below.items()
            if isinstance(one, Made)
        ]
    return found


def _own(state: Mapping[Any, Any]) -> Iterator[tuple[str, View]]:
    """A module's own parameters and persistent buffers."""
    passing = state.get("_non_persistent_buffers_set")
    if isinstance(passing, Made):  # Python 2 wrote set([name, ...])
        passing = (*passing.items, *(passing.args[0] if passing.args else ()))
    for group in ("_parameters", "_buffers"):
        for name, value in (mapping_of(state.get(group)) or {}).items():
            view = view_of(value)
            if view is not None and name not in (passing or ()):
                yield str(name), view


def view_of(value: Any) -> View | None:
    """The tensor that a call would rebuild; None where it is no tensor.

    Raises:
        BadCheckpoint: a tensor that reaches beyond its storage.
    """
    while isinstance(value, Made) and value.args:
        name = value.maker.name if value.maker.module.startswith("torch.") else ""
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            value = value.args[0]
        elif name == "_rebuild_from_type_v2" and len(value.args) == 4:
            made = value.args[0], value.args[2]
            plain = isinstance(made[0], Named) and isinstance(made[1], tuple)
            value = Made(made[0], made[1]) if plain else None
        elif name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return _view(value.args[:4])
        else:
            return None
    return None


def _view(args: tuple[Any, ...]) -> View:
    storage, offset, shape, strides = args if len(args) == 4 else (None, 0, (), ())
    whole = isinstance(shape, tuple) and isinstance(strides, tuple) and len(shape) == len(strides)
    numbers = (offset, *shape, *strides) if whole else (None,)
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise BadCheckpoint("it describes a tensor that cannot be")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    # A stride of 0 would make a tensor of any size out of one number.
    if prod(shape) > storage.count or (prod(shape) and last >= storage.count):
        raise BadCheckpoint(f"it has a tensor of shape {shape[:6]} in {storage.count} numbers")
    return View(storage, offset, shape, strides)


def objects(root: Any) -> Iterator[Made]:
    """Every object of the tree, each once, to look for what a model says of itself."""
    waiting, seen = [root], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        if isinstance(one, Made):
            yield one
            waiting += [one.args, one.state, one.items, one.pairs]
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            waiting += one
        if isinstance(one, Made | dict | list | tuple | set | frozenset):
            seen.add(id(one))
