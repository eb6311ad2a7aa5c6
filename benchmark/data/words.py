"""Class names by label, prompts and folder names of a published data set, from a YAML file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from benchmark.errors import BenchError, nearest

SHIPPED = Path(__file__).parent / "names"


@dataclass(frozen=True, slots=True)
class Words:
    """What a data set's labels are called.

    Attributes:
        classnames: by label, as prompts name them.
        templates: prompts with "{}" in the name's place.
        folders: by label, the name of a class's folder in published copies.
    """

    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    folders: tuple[str, ...]


@cache
def read_words(source: str) -> Words:
    """The words of a shipped file (its stem, e.g. "cars") or of a file of the user's.

    The file has `classnames`, `templates` and, unless a class's folder is its name with "_" for
    spaces, `folders`.

    Raises:
        BenchError: no such file, or one that lacks names or templates.
    """
    path = SHIPPED / f"{source}.yaml" if source.isidentifier() else Path(source).expanduser()
    try:
        body = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        names, templates = ([str(one) for one in body[key]] for key in ("classnames", "templates"))
        folders = [str(one) for one in body.get("folders", [])]
    except OSError as error:
        shipped = [one.stem for one in SHIPPED.glob("*.yaml")]
        hint = nearest(source, shipped) if source.isidentifier() else ""
        raise BenchError(f"words={source} cannot be read ({error.strerror}){hint}") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BenchError(f"words={source} is not a YAML with classnames and templates") from error
    folders = folders or [name.replace(" ", "_") for name in names]
    if len(names) < 2 or len(folders) != len(names):
        raise BenchError(f"words={source} has {len(names)} classnames, {len(folders)} folders")
    if not templates or not all("{}" in one for one in templates):
        raise BenchError(f"words={source} needs templates, each with {{}} in the name's place")
    return Words(tuple(names), tuple(templates), tuple(folders))
