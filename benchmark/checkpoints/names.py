"""Which classes and functions a checkpoint may name. None is ever looked up, let alone called."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.errors import BadCheckpoint


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function as a pickle names it."""

    module: str
    name: str

    def __str__(self) -> str:
        """The dotted path, with Python 2's names as those of today."""
        return f"{RENAMED.get(self.module, self.module)}.{self.name}"


RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
RETIRED = frozenset({"commands", "popen2", "urllib2", "imp", "pipes", "asyncore", "distutils"})
"""Modules that the standard library once had."""
CONTAINERS = ("set", "frozenset", "list", "dict", "tuple", "slice", "range")
NUMBERS = ("int", "float", "bool", "complex")
ARRAYS = ("scalar", "_reconstruct")
TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter",
           "_rebuild_parameter_with_state")  # fmt: skip


def _paths(modules: Mapping[str, Sequence[str]]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for module, names in modules.items() for name in names)


HARMLESS = _paths(
    {
        "collections": ("OrderedDict", "defaultdict", "Counter", "deque"),
        "builtins": (*CONTAINERS, *NUMBERS, "str", "bytes", "bytearray", "object", "getattr"),
        "copyreg": ("_reconstructor",),
        "_codecs": ("encode",),
        "functools": ("partial",),
        "argparse": ("Namespace",),
        "typing": ("Any",),
        "pathlib": ("Path", "PosixPath", "WindowsPath", "PurePosixPath"),
    }
)
"""What of the standard library real checkpoints mention: containers, settings, enumerations."""
REBUILDS = _paths(
    {
        "torch": ("device",),
        "torch._utils": TENSORS,
        "torch._tensor": ("_rebuild_from_type_v2",),
        "numpy": ("dtype",),
        "numpy.core.multiarray": ARRAYS,
        "numpy._core.multiarray": ARRAYS,
        "numpy.core.numeric": ("_frombuffer",),
        "numpy._core.numeric": ("_frombuffer",),
    }
)
"""Functions of other packages that real checkpoints would call; all else they call are classes."""


def judge_name(named: Named) -> Named:
    """The name, if it may be mentioned.

    Raises:
        BadCheckpoint: of the standard library only what `HARMLESS` lists may be.
    """
    root = RENAMED.get(named.module, named.module).partition(".")[0]
    known = root in sys.stdlib_module_names or root in RETIRED
    # `__main__` is not of the library: a model class defined in a script lives there.
    if known and root != "__main__" and str(named) not in HARMLESS:
        raise BadCheckpoint(
            f"it names {named}, which no checkpoint needs: it may run its author's code where it "
            "is unpickled (here nothing of it was run)"
        )
    return named


def judge_call(named: Named, args: tuple[Any, ...]) -> None:
    """Refuse a call that is neither of a class nor one of those that make up checkpoints.

    Raises:
        BadCheckpoint: names what would be called.
    """
    if str(named) == "builtins.getattr":
        # How Python 3.11 writes a member of an enumeration: getattr(class, "MEMBER").
        plain = len(args) == 2 and isinstance(args[0], Named) and isinstance(args[1], str)
        if plain and not args[1].startswith("_"):
            return
    elif str(named) in HARMLESS | REBUILDS or named.name.rpartition(".")[2][:1].isupper():
        return
    raise BadCheckpoint(
        f"it would call {named}, which no checkpoint needs: it may run its author's code where it "
        "is unpickled (here nothing of it was run)"
    )
