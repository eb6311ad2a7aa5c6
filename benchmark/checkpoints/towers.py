"""The image tower in whatever a checkpoint holds beside it: wrappers, text tower, heads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from benchmark.errors import BadCheckpoint

OURS = ("class_embedding", "conv1.weight")
THEIRS = ("embeddings.class_embedding", "embeddings.patch_embedding.weight")
"""What every ViT has, by open_clip's names and by those of Hugging Face."""
OUR_TEXT = ("transformer.*", "token_embedding.weight", "positional_embedding", "ln_final.*",
            "text_projection", "logit_scale", "logit_bias", "attn_mask", "input_resolution",
            "context_length", "vocab_size", "text.*")  # fmt: skip
"""What stands beside open_clip's `visual.`; `text.*` is its CustomTextCLIP."""
THEIR_TEXT = ("text_model.*", "text_projection.weight", "logit_scale", "embeddings.position_ids",
              "vision_model.embeddings.position_ids")  # fmt: skip
HEADS = ("*classification_head.*", "*classification_heads.*")
"""Classifiers of task_vectors and what grew out of it: rows of the text tower, made afresh here."""


@dataclass(frozen=True, slots=True)
class Tower:
    """Where the image tower lies.

    Attributes:
        prefix: what its names begin with.
        hugging_face: whether they are those of Hugging Face.
        names: name in the file -> name without the prefix.
        projection: name of Hugging Face's projection, if it is there.
        left_out: names beside the tower that are known, or left out by the user's word.
    """

    prefix: str
    hugging_face: bool
    names: Mapping[str, str]
    projection: str | None
    left_out: tuple[str, ...]


def find_tower(names: Collection[str], leave_out: Collection[str] = ()) -> Tower:
    """The image tower among a checkpoint's names.

    Args:
        names: every tensor.
        leave_out: patterns of names that the user does not want.

    Raises:
        BadCheckpoint: there is none, or more than one, or names that belong to nothing known.
    """
    kept = [name for name in names if not any(fnmatchcase(name, one) for one in leave_out)]
    found = [
        (prefix, marks is THEIRS) for marks in (OURS, THEIRS) for prefix in _prefixes(kept, marks)
    ]
    if len(found) != 1:
        told = ", ".join(sorted({name.split(".")[0] for name in names})[:8]) or "nothing"
        why = f"{len(found)} image towers" if found else "no image tower of a ViT CLIP"
        raise BadCheckpoint(f"it holds {why} (its names begin with: {told})")
    prefix, theirs = found[0]
    tower = {name: name.removeprefix(prefix) for name in kept if name.startswith(prefix)}
    above = prefix.removesuffix("vision_model." if theirs else "visual.")
    projection = f"{above}visual_projection.weight" if theirs else None
    known = _known(prefix, above, theirs)
    beside = [name for name in names if name not in tower or known(name)]
    tower = {name: short for name, short in tower.items() if name not in beside}
    strange = [n for n in kept if n in beside and n != projection and not known(n)]
    if strange:
        raise BadCheckpoint(
            f"unknown beside the image tower: {', '.join(strange[:12])}"
            f"{f' and {len(strange) - 12} more' if len(strange) > 12 else ''}; if they may go, "
            f"say --leave-out '{strange[0].split('.')[0]}*'"
        )
    there = projection if projection in names else None
    left = tuple(sorted(name for name in beside if name != there))
    return Tower(prefix, theirs, {n: s for n, s in tower.items() if n != there}, there, left)


def _prefixes(names: Collection[str], marks: tuple[str, str]) -> list[str]:
    """What stands before both marks."""
    first, second = marks
    every = set(names)
    ends = (name.removesuffix(first) for name in names if name.endswith(first))
    return [one for one in ends if f"{one}{second}" in every and (not one or one[-1] == ".")]


def _known(prefix: str, above: str, theirs: bool) -> Callable[[str], bool]:
    """Whether a name is the text tower's, a head's, or a table of positions and no weight."""
    patterns = list(HEADS)
    if theirs:
        patterns += [f"{above}{one}" for one in THEIR_TEXT]
    elif prefix != above:
        patterns += [f"{above}{one}" for one in OUR_TEXT]
    return lambda name: any(fnmatchcase(name, one) for one in patterns)


def summarised(names: Collection[str]) -> list[str]:
    """Names by their first two parts, with counts, for people."""
    counts: dict[str, int] = {}
    for name in names:
        start = ".".join(name.split(".")[:2])
        counts[start] = counts.get(start, 0) + 1
    return [one if many == 1 else f"{one}.* ({many})" for one, many in sorted(counts.items())]


def as_words(value: Any) -> str:
    """A sequence of numbers for a sentence."""
    return "[" + ", ".join(f"{float(one):.6g}" for one in value) + "]"
