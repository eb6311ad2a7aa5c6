"""The cell of a record, built again from its values."""

from __future__ import annotations

from typing import Any

from benchmark.cell import COMPONENTS, Cell, cell_from
from benchmark.components import filled, option, over
from benchmark.errors import BenchError
from benchmark.listing import default_budget
from benchmark.records import Record
from benchmark.replay import GROUPS
from benchmark.tables.rows import UNSAID


def record_cell(record: Record) -> Cell:
    """The cell of a record; raises BenchError if conf/ or its components no longer fit.

    Values that its components were given since then are those of its options.
    """
    names, (_, worth) = {**UNSAID, **record.names}, default_budget()
    config: dict[str, Any] = {**record.config, "names": names}
    for group in (one for one in GROUPS if one in names):
        config[group] = filled(option(group, names[group]), worth)
        config[group] = over(config[group], record.config.get(group, {}))
        config[group].pop("defaults", None)
    known = record.config.get("dataset", {})
    config["dataset"] = {task: over(option("dataset", task), one) for task, one in known.items()}
    absent = {*COMPONENTS, "seed"} - config.keys()
    if absent:
        raise BenchError(f"record {record.key} holds no values of {', '.join(sorted(absent))}")
    return cell_from(config)
