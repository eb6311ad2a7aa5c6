"""Rows from records: records of one cell over its seeds become one row. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmark import records as files
from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.store import canonical
from benchmark.tables.alike import telling
from benchmark.tables.metrics import BESIDE, METRICS, UNDEFENDED, costs, ends, line, measures, said
from benchmark.tables.stats import Stat, over_seeds

NAMES = ("suite", "peft", "attack", "merge", "stress", "defense")
UNSAID = {"peft": "full", "stress": "none"}
"""What it means that a record does not name an option of a group."""
DERIVED = {
    "zero_shot": ("pretrained", "no expert is used: the pre-trained model"),
    "drop_attacker": ("without_attacker", "who the attacker is (an oracle)"),
}
"""Rows read off a control of the undefended cell: name -> (control, what it was allowed)."""
NO_DATA = "weights only"
BAD = ("failed", "not_implanted", "skipped")


@dataclass(frozen=True, slots=True)
class Row:
    """One cell over its seeds.

    Attributes:
        names: suite, peft, attack, merge, stress, defense.
        variant: the values in which cells of equal names differ, "" where there is one cell.
        status: done, partial (some seeds are not done), skipped, not_implanted, failed, missing;
            of a worst case that never was an attack: not counted; of numbers that only a
            publication has: published.
        reason: why, by seed, for any status but done.
        seeds: the seeds that are done.
        needs: what attack, merge and defence were allowed to see.
        stats: metric -> number; a metric whose control is absent is not in it.
        costs: images, labels, passes, seconds, and what the method says of itself (lambda_a,
            captured): means over seeds, None where unknown.
        setting: adversary, target class and trigger place, as far as the attack has them.
        config: the resolved values without the seed; empty for what was never recorded.
        parts: of a row pooled over settings, the rows it was made of.
        records: the records that are done, by seed.
    """

    names: Mapping[str, str]
    variant: str
    status: str
    reason: str | None
    seeds: tuple[int, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    stats: Mapping[str, Stat] = field(default_factory=dict)
    costs: Mapping[str, float | None] = field(default_factory=dict)
    setting: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Row, ...] = ()
    records: tuple[Record, ...] = ()

    def mean(self, metric: str) -> float | None:
        """The metric's mean in per cent, if the row has it."""
        stat = self.stats.get(metric)
        return None if stat is None else stat.mean

    @property
    def sees(self) -> str:
        """What merge and defence were allowed to see, in words."""
        merge, defense = (self.needs.get(part) or NO_DATA for part in ("merge", "defense"))
        return defense if merge == NO_DATA else f"{defense}; merge: {merge}"

    @property
    def curve(self) -> list[tuple[float, float, float]]:
        """(s, CA lost, ASR) along the line to the defended model, means over the seeds with one."""
        lines = [found for record in self.records if (found := line(record.curve))]
        alike = [one for one in lines if [p[0] for p in one] == [p[0] for p in lines[0]]]
        return [
            (each[0][0], fmean(p[1] for p in each), fmean(p[2] for p in each))
            for each in zip(*alike, strict=True)
        ]


def find(folder: Path | str) -> list[Record]:
    """The records in a folder of records, or in `records/` of a store; none is an empty list."""
    folder = Path(folder).expanduser()
    below = folder / "records"
    return files.read_all((below if below.is_dir() else folder).glob("*.json"))


def measured_on(record: Record) -> str:
    """Which images the record was measured on: test or dev; test where its suite says nothing."""
    return record.config.get("suite", {}).get("evaluate", "test")


def rows(records: Iterable[Record], planned: Iterable[Mapping[str, Any]] = ()) -> list[Row]:
    """One row per cell, in the order of names and variant.

    Args:
        records: of any cells and seeds, in any order.
        planned: names, seed, setting and key (or the first two) of cells that ought to be there;
            an absent one gets a row.
    """
    groups: dict[str, list[Record]] = {}
    for record in with_derived(records):
        groups.setdefault(_cell(record), []).append(record)
    firsts = [group[0] for group in groups.values()]
    variants = differing([(dict(record.names), record.config) for record in firsts])
    made = [
        _row(sorted(group, key=lambda record: record.seed), variant)
        for group, variant in zip(groups.values(), variants, strict=True)
    ]
    recorded = {
        address
        for group in groups.values()
        for record in group
        for address in ((*_names(record.names), record.seed), record.key)
    }
    made = _with_missing(made, [cell for cell in planned if not _present(cell, recorded)])
    return sorted(made, key=lambda row: (_names(row.names), row.variant))


def with_derived(records: Iterable[Record]) -> list[Record]:
    """The records and, per undefended attacked one, those of its reference rows."""
    every = list(records)
    for record in list(every):
        attacked = record.names["attack"] != "none" and record.names["defense"] == UNDEFENDED
        if attacked and record.main is not None and record.status == "done":
            every += [
                _derived(record, name, control, sees)
                for name, (control, sees) in DERIVED.items()
                if control in record.controls
            ]
    return every


def _derived(record: Record, name: str, control: str, sees: str) -> Record:
    """A control as a row of its own. No poisoned expert is in it, so its clean twin is itself."""
    main = record.controls[control]
    return replace(
        record,
        key=f"{record.key}-{name}",
        names={**record.names, "defense": name},
        main=main,
        controls={**record.controls, "undefended": record.main, "defended_clean_merge": main},
        needs={**record.needs, "defense": sees},
        info={},
        provenance={},
    )


def _cell(record: Record) -> str:
    return canonical([dict(record.names), telling(record.config)])


def setting_of(config: Mapping[str, Any]) -> str:
    """Adversary, target class and trigger place of a resolved config, as far as it has them."""
    attack = config.get("attack", {})
    keys = ("adversary", "target", "place")
    each = [[one[key] for key in keys if key in one] for one in attack.get("plants", [attack])]
    return ", ".join(
        " ".join(value if isinstance(value, str) else canonical(value) for value in values)
        for values in each
    )


def _row(group: Sequence[Record], variant: str) -> Row:
    seeds = [record.seed for record in group]
    if len(set(seeds)) < len(seeds):
        keys = ", ".join(record.key for record in group)
        raise BenchError(f"records {keys} are of one cell and share a seed; delete the stale one")
    done = [record for record in group if record.status == "done" and record.main is not None]
    rest = [record for record in group if record not in done]
    found = [measures(record) for record in done]
    numbers = {
        name: over_seeds([one for each in found if (one := each[name]) is not None], ends(name))
        for name in METRICS
    }
    spent = [costs(record) | said(record) for record in done]
    return Row(
        names=group[0].names,
        variant=variant,
        status=_status(done, rest),
        reason="; ".join(_reason(record) for record in rest) or None,
        seeds=tuple(record.seed for record in done),
        needs=group[0].needs,
        stats={name: stat for name, stat in numbers.items() if stat is not None},
        costs={name: _mean([each[name] for each in spent]) for name in BESIDE},
        setting=setting_of(group[0].config),
        config={key: value for key, value in group[0].config.items() if key != "seed"},
        records=tuple(done),
    )


def _status(done: Sequence[Record], rest: Sequence[Record]) -> str:
    if done:
        return "partial" if rest else "done"
    present = {record.status for record in rest}
    return next((status for status in BAD if status in present), "failed")


def _reason(record: Record) -> str:
    return f"seed {record.seed} {record.status}: {record.reason or 'no reason was recorded'}"


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return fmean(known) if known and len(known) == len(numbers) else None


def named(names: Mapping[str, Any]) -> dict[str, str]:
    """The names that tell rows apart, in the order of NAMES; "" for one that is unknown."""
    return {name: str(names.get(name, UNSAID.get(name, ""))) for name in NAMES}


def _names(names: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(named(names).values())


def _present(cell: Mapping[str, Any], recorded: Collection[Any]) -> bool:
    return (cell.get("key") or (*_names(cell), cell.get("seed", 0))) in recorded


def _with_missing(made: Sequence[Row], absent: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows, with what was planned and never recorded: as a remark, or as a row of its own."""
    seeds: dict[tuple[str, ...], list[int]] = {}
    for cell in absent:
        place = (*_names(cell), cell.get("setting", ""))
        seeds.setdefault(place, []).append(cell.get("seed", 0))
    said = {
        place: f"not run yet: seed {', '.join(str(seed) for seed in sorted(set(ones)))}"
        for place, ones in seeds.items()
    }
    out = []
    for row in made:
        why = said.pop((*_names(row.names), row.setting), None)
        if why is not None:
            reason = f"{row.reason}; {why}" if row.reason else why
            row = replace(row, status="partial" if row.stats else row.status, reason=reason)
        out.append(row)
    for (*names, setting), why in said.items():
        made_up: dict[str, str] = dict(zip(NAMES, names, strict=True))
        out.append(Row(made_up, "", "missing", why, setting=setting))
    return out


def differing(cells: Sequence[tuple[Any, Mapping[str, Any]]]) -> list[str]:
    """Per (names, config), the values that differ from those of cells with the same names."""
    flat = [dict(_flatten(telling(config))) for _, config in cells]
    groups = [canonical(names) for names, _ in cells]
    same: dict[str, list[dict[str, str]]] = {}
    for group, values in zip(groups, flat, strict=True):
        same.setdefault(group, []).append(values)
    differ = {group: _differing_keys(those) for group, those in same.items()}
    return [
        ", ".join(f"{key}={values.get(key, 'absent')}" for key in differ[group])
        for group, values in zip(groups, flat, strict=True)
    ]


def _differing_keys(flat: Sequence[Mapping[str, str]]) -> list[str]:
    keys = sorted({key for values in flat for key in values})
    return [key for key in keys if len({values.get(key, "") for values in flat}) > 1]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in config.items():
        name = prefix if key == "values" and prefix else f"{prefix}.{key}".lstrip(".")
        if isinstance(value, Mapping):
            yield from _flatten(value, name)
        else:
            yield name, value if isinstance(value, str) else canonical(value)
