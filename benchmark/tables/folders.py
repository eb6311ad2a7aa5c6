"""Where a table's records are among folders that are named after tables and experiments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.tables.layout import layout


def below(parent: Path, name: str) -> list[Path]:
    """The folders in `parent` that have the table's name or its experiments' and hold `records`."""
    each = [parent / one for one in dict.fromkeys((name, *layout(name).experiments))]
    return [folder for folder in each if (folder / "records").is_dir()]


def folders(name: str, given: Sequence[Path]) -> list[Path]:
    """The folders of records that a table is made of.

    Args:
        name: of the table.
        given: folders of records, each taken as it is, and folders like `results/` that hold those
            of several tables: of these, what the table asks for.
    """
    found = [
        folder
        for one in given
        for folder in ([one] if (one / "records").is_dir() else below(one, name) or [one])
    ]
    return list(dict.fromkeys(found))
