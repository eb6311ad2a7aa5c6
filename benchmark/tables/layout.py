"""What a table looks like: the values of conf/table/<name>.yaml."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from benchmark.components import build, component, option
from benchmark.errors import BenchError, nearest
from benchmark.tables.metrics import BESIDE, METRICS
from benchmark.tables.pooled import AGAINST
from benchmark.tables.published import Published
from benchmark.tables.rows import NAMES, UNSAID, Row, named

OTHERS = "*"
WORDS = (*NAMES, "variant", "sees", "status", "reason", "curve")
COUNTS = ("n_seeds", "n_settings")
FROM_PAPERS = ("published", "difference")
NUMBERS = (*METRICS, *BESIDE, *AGAINST, *COUNTS)


@component
class Column:
    """One column.

    Attributes:
        key: a metric, a cost, lambda_a or captured, n_seeds, n_settings, asr_against or ca_against
            (the subject), a name (attack, merge, ...), sees, status, reason or curve (the ASR along
            the line).
        header: how it is headed.
        unit: shown in the header, e.g. "%".
        decimals: digits after the point.
        better: which direction is better; the best comparable row is bold.
        show: the mean, the worst of the seeds or settings (by `better`), an end of the interval,
            the published number, or the mean minus the published number.
        spread: whether the deviation over seeds, or else the interval, stands beside the mean.
    """

    key: str
    header: str
    unit: str = ""
    decimals: Annotated[int, Field(ge=0, le=6)] = 1
    better: Literal["higher", "lower"] | None = None
    show: Literal["mean", "worst", "low", "high", "published", "difference"] = "mean"
    spread: bool = False

    def number(self, row: Row) -> float | None:
        """What a row has to show here, if it has it."""
        stat = row.stats.get(self.key)
        if stat is None or self.show in FROM_PAPERS:
            return None
        worst = min if self.better == "higher" else max
        shown = {"mean": stat.mean, "worst": worst(stat.values), "low": stat.low, "high": stat.high}
        return shown[self.show]

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.key in NUMBERS or self.show in FROM_PAPERS

    @property
    def ranked(self) -> bool:
        """Whether its best number is looked for: tests compare means only."""
        return self.better is not None and self.show == "mean"

    @property
    def title(self) -> str:
        """Header, unit and the direction that is better."""
        arrow = {"higher": "↑", "lower": "↓", None: ""}[self.better]
        return " ".join(part for part in (self.header, self.unit, arrow) if part)


@component
class Order:
    """Which options a table shows and in which order; "*" stands for all the others, by name.

    Stressed cells are shown only where a table names their stresses.
    """

    suite: tuple[str, ...] = (OTHERS,)
    peft: tuple[str, ...] = (OTHERS,)
    attack: tuple[str, ...] = (OTHERS,)
    merge: tuple[str, ...] = (OTHERS,)
    defense: tuple[str, ...] = (OTHERS,)
    stress: tuple[str, ...] = (UNSAID["stress"],)

    def shows(self, names: Mapping[str, str]) -> bool:
        """Whether the table shows cells of these names."""
        return self._place(names) is not None

    def place(self, row: Row) -> tuple[tuple[int, str], ...] | None:
        """The row's sort key, or None if the table does not show it."""
        if row.parts:  # all of them are shown, or they would not be in it
            return min(place for part in row.parts if (place := self.place(part)) is not None)
        return self._place(row.names)

    def _place(self, names: Mapping[str, str]) -> tuple[tuple[int, str], ...] | None:
        places = []
        for group, name in named(names).items():
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
        experiments: whose cells fill the table; empty: the experiment of the table's name.
        group_by: cell: a row per cell over its seeds; setting: a row per defence over all settings;
            worst: a row per names, of the cell with the highest ASR.
        least_asr: settings or cells with a lower undefended ASR (per cent) are not counted;
            `group_by` setting and worst only.
        rows: which rows, in which order.
        references: defences that are not ranked.
        within: rows are comparable if these names are equal.
        fold: name columns that move into the caption when all rows agree.
        variants: what a variant is called, where its values do not say what they mean.
        notes: footnotes that hold whatever the numbers are.
        command: what fills the table.
        published: numbers of publications, for columns that show them.
    """

    title: str
    caption: str
    columns: tuple[Column, ...]
    selection: str
    subject: str
    subject_is: str
    command: str
    evaluate: Literal["test", "dev"] = "test"
    experiments: tuple[str, ...] = ()
    group_by: Literal["cell", "setting", "worst"] = "cell"
    least_asr: Annotated[float, Field(ge=0, le=100)] = 0.0
    rows: Order = field(default_factory=Order)
    references: tuple[str, ...] = ("none", "zero_shot", "drop_attacker")
    within: tuple[str, ...] = ("suite", "peft", "attack", "merge")
    fold: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()

    def comparable(self, row: Row, rows: Sequence[Row]) -> list[Row]:
        """The ranked rows with numbers that stand in competition with `row`.

        Rows over settings need not have the same ones: they are compared on those that both have.
        """
        ours = named(row.names)
        return [
            other
            for other in rows
            if other.stats
            and other.names["defense"] not in self.references
            and all(named(other.names)[name] == ours[name] for name in self.within)
            and other.setting == row.setting
        ]


def layout(name: str) -> Layout:
    """The layout of conf/table/<name>.yaml."""
    node = {"_target_": f"{__name__}.Layout", **option("table", name)}
    made: Layout = build(node, f"table.{name}")
    said = {metric for one in made.published for metric in one.values}
    for column in made.columns:
        _check(f"table.{name}", column, said)
    return made


def _check(where: str, column: Column, said: Collection[str]) -> None:
    """Refuse a column that can never show anything."""
    known = said if column.show in FROM_PAPERS else (*WORDS, *NUMBERS)
    if column.key not in known:
        raise BenchError(f"{where}: unknown column '{column.key}'{nearest(column.key, known)}")
    if column.show == "worst" and column.better is None:
        raise BenchError(f"{where}: the worst {column.key} needs `better`; give it")
    if column.show == "difference" and column.key not in METRICS:
        raise BenchError(f"{where}: {column.key} is not measured here, so it has no difference")
