"""A pickle read without running any of it: names stay names, calls are written down, not made.

Unpickling calls whatever a file names. This reader takes the opcodes apart with `pickletools`,
which decodes and runs nothing, and keeps a tree of plain values: a class or function is a `Named`,
a call of it a `Made`. There is no way from here to an import, an attribute or a call, whatever the
file says. What the tree may name is judged all the same, so that a file which would run code
elsewhere is refused by name and not taken for a harmless one.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmark.checkpoints.names import Named, judge_call, judge_name
from benchmark.errors import BadCheckpoint

STEPS = 5_000_000
"""Opcodes of one pickle; that of a ViT-L/14 whole model has some ten thousand."""


@dataclass(eq=False, slots=True)
class Made:
    """An object as a pickle describes it.

    Attributes:
        maker: the class or function that would be called.
        args: what it would be called with.
        state: what the object would then be given (`__setstate__`); None: nothing.
        items: what would be appended or added to it.
        pairs: what would be set in it by key.
    """

    maker: Named
    args: tuple[Any, ...]
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)


def read_pickle(file: Any, stored: Callable[[Any], Any]) -> Any:
    """The tree of one pickle; the file is left standing behind it.

    Args:
        file: binary, with `read` that never allocates more than there is (BytesIO or mmap).
        stored: what a persistent id stands for; raises ValueError where it stands for nothing.

    Raises:
        BadCheckpoint: it is malformed, or names what no checkpoint needs.
    """
    machine = _Machine(stored)
    broken = (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error, EOFError)
    try:
        for step, (opcode, value, _) in enumerate(pickletools.genops(file)):
            if step > STEPS:
                raise ValueError(f"it has more than {STEPS} steps")
            machine.run(opcode.name, value)
    except broken as error:
        raise BadCheckpoint(f"it is a broken pickle ({error})") from error
    return machine.result


class _Machine:
    """The stack and the memo of a pickle; every opcode does to them what it does elsewhere."""

    def __init__(self, stored: Callable[[Any], Any]) -> None:
        self.stored = stored
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.result: Any = None

    def run(self, name: str, value: Any) -> None:
        """One opcode with its decoded argument."""
        if ARGUMENT.fullmatch(name):
            self.stack.append(value)
        elif name in PUSHES:
            self.stack.append(PUSHES[name]())
        elif name in ACTS:
            ACTS[name](self, value)
        elif name not in IGNORED:
            raise ValueError(f"it uses {name}, which no checkpoint needs")

    def top(self) -> Any:
        """What later steps of an object apply to; it stays where it is."""
        self._above_mark(1)
        return self.stack[-1]

    def pop(self, count: int = 1) -> list[Any]:
        """The last `count` values, oldest first."""
        self._above_mark(count)
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _above_mark(self, count: int) -> None:
        if len(self.stack) - (self.marks[-1] if self.marks else 0) < count:
            raise ValueError("its stack runs empty")

    def marked(self) -> list[Any]:
        """Everything above the last mark, which goes with it."""
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def put(self, value: Any) -> None:
        """Push."""
        self.stack.append(value)

    def name(self, module: Any, name: Any) -> None:
        """A class or function is mentioned."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it names a class with something that is no text")
        self.stack.append(judge_name(Named(module, name)))

    def call(self, maker: Any, args: Any) -> None:
        """A class or function would be called."""
        if not isinstance(maker, Named) or not isinstance(args, tuple):
            raise BadCheckpoint(
                "it would call what another call returned; code does that (none of it was run)"
            )
        judge_call(maker, args)
        self.stack.append(Made(maker, args))

    def make(self, maker: Any, args: Any) -> None:
        """An object of a class would be made without calling the class (`__new__`)."""
        if not isinstance(maker, Named) or not isinstance(args, tuple):
            raise ValueError("it makes an object of something that is no class")
        self.stack.append(Made(maker, args))

    def build(self, state: Any) -> None:
        """The object on top would be given its state."""
        made = self.top()
        if not isinstance(made, Made):
            raise BadCheckpoint(
                "it would change a class or a function; code does that (none of it was run)"
            )
        made.state = state

    def append(self, items: list[Any]) -> None:
        """The list, set or object on top gets items."""
        target = self.top()
        if isinstance(target, set):
            target.update(_keys(items))
        else:
            (target.items if isinstance(target, Made) else _as(list, target)).extend(items)

    def set(self, flat: list[Any]) -> None:
        """The dict or object on top gets pairs: key, value, key, value, ..."""
        target = self.top()
        pairs = target.pairs if isinstance(target, Made) else _as(dict, target)
        pairs.update(_pairs(flat))

    def remember(self, key: int) -> None:
        """The value on top gets a number."""
        self.memo[key] = self.top()

    def drop(self) -> None:
        """The value or the mark on top goes."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop()

    def finish(self) -> None:
        """The value on top is the result."""
        (self.result,) = self.pop()


def _as(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"it fills a {type(value).__name__} as if it were a {kind.__name__}")
    return value


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    return dict(zip(_keys(flat[::2]), flat[1::2], strict=True))


def _keys(values: list[Any]) -> list[Any]:
    """Values that may be hashed: hashing nested tuples can take for ever."""
    if odd := [one for one in values if not isinstance(one, KEYS)]:
        raise ValueError(f"it has a {type(odd[0]).__name__} as a key")
    return values


KEYS = (str, bytes, int, float, bool, type(None), Named, Made)


ARGUMENT = re.compile(
    r"(BIN)?INT[12]?|LONG[14]?|(BIN)?FLOAT|BYTEARRAY8|(SHORT_)?(BIN)?(STRING|(UNICODE|BYTES)8?)"
)
"""Opcodes that push what they carry."""
PUSHES: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "EMPTY_TUPLE": tuple,
}
IGNORED = frozenset({"PROTO", "FRAME"})
ACTS: dict[str, Callable[[_Machine, Any], object]] = {
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.drop(),
    "POP_MARK": lambda m, _: m.marked(),
    "DUP": lambda m, _: m.put(m.top()),
    "PUT": lambda m, key: m.remember(key),
    "BINPUT": lambda m, key: m.remember(key),
    "LONG_BINPUT": lambda m, key: m.remember(key),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "GET": lambda m, key: m.put(m.memo[key]),
    "BINGET": lambda m, key: m.put(m.memo[key]),
    "LONG_BINGET": lambda m, key: m.put(m.memo[key]),
    "TUPLE": lambda m, _: m.put(tuple(m.marked())),
    "TUPLE1": lambda m, _: m.put(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.put(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.put(tuple(m.pop(3))),
    "LIST": lambda m, _: m.put(m.marked()),
    "DICT": lambda m, _: m.put(_pairs(m.marked())),
    "FROZENSET": lambda m, _: m.put(frozenset(_keys(m.marked()))),
    "APPEND": lambda m, _: m.append(m.pop()),
    "APPENDS": lambda m, _: m.append(m.marked()),
    "ADDITEMS": lambda m, _: m.append(m.marked()),
    "SETITEM": lambda m, _: m.set(m.pop(2)),
    "SETITEMS": lambda m, _: m.set(m.marked()),
    "GLOBAL": lambda m, words: m.name(*words.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.pop(2)),
    "REDUCE": lambda m, _: m.call(*m.pop(2)),
    "NEWOBJ": lambda m, _: m.make(*m.pop(2)),
    "NEWOBJ_EX": lambda m, _: m.make(*m.pop(3)[:2]),
    "BUILD": lambda m, _: m.build(*m.pop()),
    "PERSID": lambda m, text: m.put(m.stored(text)),
    "BINPERSID": lambda m, _: m.put(m.stored(*m.pop())),
    "STOP": lambda m, _: m.finish(),
}
