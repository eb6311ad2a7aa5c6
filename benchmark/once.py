"""A method of an immutable object, computed once per object and arguments."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def once(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Remember results in the object itself; a cell's keys are asked for hundreds of times."""

    @wraps(method)
    def remembered(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        memory: dict[Any, T] = self.__dict__.setdefault("_memory", {})
        call = (method.__name__, *args)
        if call not in memory:
            memory[call] = method(self, *args, **kwargs)
        return memory[call]

    return remembered
