"""A short cut through Hydra: the jobs of a plain sweep from one composition instead of one each.

Hydra needs about 0.2 s to compose a cell; a table has hundreds. Where only whole components
(attack, merge, defence) and single values are swept, every job is the base composition with a few
nodes replaced, and that is done here on plain dicts. Whatever does not fit is left to Hydra: the
functions then return None. A test compares both ways.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.components import raw_option

WHOLE = ("peft", "attack", "merge", "defense", "stress")
"""Groups whose options are plain files: choosing another replaces one node and nothing else."""
REFERENCE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")
"""An interpolation that is a whole value: of another key, by its full path."""
Tree = dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep as Hydra's parser understood it.

    Attributes:
        base: composed with the fixed words, interpolations unresolved.
        choices: group -> chosen option, of the base.
        fixed: (key, value) of the words that are not swept, in order.
        swept: (key, values) in the order in which the product is taken.
    """

    base: Tree
    choices: Mapping[str, str]
    fixed: Sequence[tuple[str, Any]]
    swept: Sequence[tuple[str, Sequence[Any]]]


def jobs(sweep: Sweep) -> Iterator[tuple[Tree, dict[str, str]]] | None:
    """(tree, choices) of every job with interpolations unresolved, or None: ask Hydra."""
    if not all(_plain(sweep, key) for key, _ in sweep.swept):
        return None
    return (_job(sweep, values) for values in itertools.product(*(v for _, v in sweep.swept)))


def _job(sweep: Sweep, values: Sequence[Any]) -> tuple[Tree, dict[str, str]]:
    chosen = dict(zip((key for key, _ in sweep.swept), values, strict=True))
    groups = {key: str(value) for key, value in chosen.items() if key in WHOLE}
    # Data sets are large, never changed here and hold no interpolations: shared, not copied.
    tree = {k: v if k == "dataset" else copy.deepcopy(v) for k, v in sweep.base.items()}
    for group, name in groups.items():
        tree[group] = copy.deepcopy(raw_option(group, name))
    leaves = {key: value for key, value in sweep.fixed if key.split(".")[0] in groups}
    leaves |= {key: value for key, value in chosen.items() if key not in groups}
    for key, value in leaves.items():
        _put(tree, key, value)
    return tree, {**sweep.choices, **groups}


def resolved(node: Any, tree: Tree) -> Any:
    """A node with every interpolation replaced by what it names in the whole tree.

    OmegaConf takes 20 ms for the tree of a cell, which is most of planning a sweep. Only values
    that are one reference (`${budget.images}`) are understood.

    Raises:
        LookupError, TypeError, RecursionError: for anything else; OmegaConf has to do it.
    """
    if isinstance(node, dict):
        return {key: resolved(value, tree) for key, value in node.items()}
    if isinstance(node, list):
        return [resolved(value, tree) for value in node]
    if not isinstance(node, str) or "${" not in node:
        return node
    whole = REFERENCE.fullmatch(node)
    if whole is None:
        raise LookupError(node)
    named: Any = tree
    for part in whole[1].split("."):
        named = named[part]
    return resolved(named, tree)


def _plain(sweep: Sweep, key: str) -> bool:
    """Whether sweeping this key only replaces a component or one value that is there."""
    first = key.split(".")[0]
    if key in WHOLE:
        names = [str(value) for swept, values in sweep.swept if swept == key for value in values]
        return _untouched(sweep, key) and all(_fits(sweep, key, name) for name in names)
    if first == "dataset" or first not in sweep.base:
        return False
    if first in WHOLE and any(one == first for one, _ in sweep.swept):
        names = [str(value) for one, values in sweep.swept if one == first for value in values]
        return all(_has({first: raw_option(first, name)}, key) for name in names)
    return _has(sweep.base, key)


def _untouched(sweep: Sweep, group: str) -> bool:
    """Whether the base's node is its option's file and the fixed words, and nothing else."""
    node = {group: copy.deepcopy(raw_option(group, sweep.choices[group]))}
    for key, value in sweep.fixed:
        if key.startswith(f"{group}."):
            if not _has(node, key):
                return False
            _put(node, key, value)
    return node[group] == sweep.base[group]


def _fits(sweep: Sweep, group: str, name: str) -> bool:
    """Whether the option is a file without a defaults list that has every fixed key."""
    node = {group: raw_option(group, name)}
    keys = [key for key, _ in sweep.fixed if key.startswith(f"{group}.")]
    return "defaults" not in node[group] and all(_has(node, key) for key in keys)


def _has(tree: Mapping[str, Any], key: str) -> bool:
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return not isinstance(node, Mapping)


def _put(tree: Tree, key: str, value: Any) -> None:
    *path, last = key.split(".")
    node: Any = tree
    for part in path:
        node = node[part]
    node[last] = value
