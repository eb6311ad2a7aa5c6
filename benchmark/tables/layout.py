"""What a table looks like: the values of conf/table/<name>.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from benchmark.components import build, component, option
from benchmark.errors import BenchError, nearest
from benchmark.tables.metrics import COSTS, METRICS
from benchmark.tables.rows import NAMES, Row, named

OTHERS = "*"
WORDS = (*NAMES, "variant", "sees", "status", "reason")
NUMBERS = (*METRICS, *COSTS, "n_seeds")


@component
class Column:
    """One column.

    Attributes:
        key: a metric, a cost, n_seeds, a name (attack, merge, ...), sees, status or reason.
        header: how it is headed.
        unit: shown in the header, e.g. "%".
        decimals: digits after the point.
        better: which direction is better; the best comparable row is bold.
        spread: whether the deviation over seeds, or with one seed the interval, is shown.
    """

    key: str
    header: str
    unit: str = ""
    decimals: Annotated[int, Field(ge=0, le=6)] = 1
    better: Literal["higher", "lower"] | None = None
    spread: bool = False

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.key in NUMBERS

    @property
    def title(self) -> str:
        """Header, unit and the direction that is better."""
        arrow = {"higher": "↑", "lower": "↓", None: ""}[self.better]
        return " ".join(part for part in (self.header, self.unit, arrow) if part)


@component
class Order:
    """Which options a table shows and in which order; "*" stands for all the others, by name."""

    suite: tuple[str, ...] = (OTHERS,)
    peft: tuple[str, ...] = (OTHERS,)
    attack: tuple[str, ...] = (OTHERS,)
    merge: tuple[str, ...] = (OTHERS,)
    defense: tuple[str, ...] = (OTHERS,)

    def place(self, row: Row) -> tuple[tuple[int, str], ...] | None:
        """The row's sort key, or None if the table does not show it."""
        places = []
        for group, name in named(row.names).items():
            listed: tuple[str, ...] = getattr(self, group)
            if name not in listed and OTHERS not in listed:
                return None
            places.append((listed.index(name if name in listed else OTHERS), name))
        return tuple(places)


@component
class Layout:
    """A table's title, columns, rows and the sentences that go with it.

    Attributes:
        title: what the table asks.
        caption: what it shows.
        columns: from left to right.
        selection: how models and hyper-parameters were chosen.
        subject: the defence that the table is about.
        subject_is: what must be said of it wherever it is shown.
        evaluate: which records it shows, those measured on test images or those on dev images.
        rows: which rows, in which order.
        references: defences that are not ranked.
        within: rows are comparable if these names are equal.
        fold: name columns that move into the caption when all rows agree.
        notes: footnotes that hold whatever the numbers are.
        command: what fills the table.
    """

    title: str
    caption: str
    columns: tuple[Column, ...]
    selection: str
    subject: str
    subject_is: str
    command: str
    evaluate: Literal["test", "dev"] = "test"
    rows: Order = field(default_factory=Order)
    references: tuple[str, ...] = ("none", "zero_shot", "drop_attacker")
    within: tuple[str, ...] = ("suite", "peft", "attack", "merge")
    fold: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def comparable(self, row: Row, rows: Sequence[Row]) -> list[Row]:
        """The ranked rows with numbers that stand in competition with `row`."""
        ours = named(row.names)
        return [
            other
            for other in rows
            if other.stats
            and other.names["defense"] not in self.references
            and all(named(other.names)[name] == ours[name] for name in self.within)
        ]


def layout(name: str) -> Layout:
    """The layout of conf/table/<name>.yaml."""
    node = {"_target_": f"{__name__}.Layout", **option("table", name)}
    made: Layout = build(node, f"table.{name}")
    for column in made.columns:
        if column.key not in (*WORDS, *NUMBERS):
            known = nearest(column.key, (*WORDS, *NUMBERS))
            raise BenchError(f"table.{name}: unknown column '{column.key}'{known}")
    return made
