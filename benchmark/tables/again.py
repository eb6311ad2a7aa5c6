"""The command that computes a row again."""

from __future__ import annotations

from dataclasses import replace
from shlex import join

from benchmark.replay import words
from benchmark.tables.metrics import UNDEFENDED
from benchmark.tables.rows import DERIVED, Row


def again(row: Row) -> str:
    """`lfpm-bench run ...` for all of a row's seeds; "" where it has none or conf/ lost an option.

    Rows that are read off a control are computed with the undefended cell; a row over settings is
    as many commands, in one line for a shell.
    """
    if row.parts:
        return "; ".join(filter(None, map(again, row.parts)))
    if not row.records:
        return ""
    first = row.records[0]
    if row.names["defense"] in DERIVED:
        first = replace(first, names={**first.names, "defense": UNDEFENDED})
    found = words(first)
    if found is None:
        return ""
    seeds = ",".join(str(record.seed) for record in row.records)
    sweep = ["-m"] if len(row.records) > 1 else []
    return join(["lfpm-bench", "run", *sweep, *found[:-1], f"seed={seeds}"])
