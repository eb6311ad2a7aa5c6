"""Tables of worst cases: what counts, which strength a row shows, stresses as rows of their own."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmark.records import Record
from benchmark.tables import make, render, rows
from benchmark.tables.layout import layout
from benchmark.tables.rows import Row
from benchmark.tables.worst import NOT_COUNTED, worst, worst_note
from tests.made_records import evaluation, hits, record


def attacked(
    defense: str, asr: int, *, undefended: int = 95, seed: int = 0, **attack: Any
) -> Record:
    """A cell with this ASR, undefended and defended; `attack` are values that tell variants."""
    controls = {"undefended": evaluation("u", asr=undefended)}
    if defense == "none":
        asr = undefended
    controls["defended_clean_merge"] = evaluation("t", asr=4)
    stress = attack.pop("stress", None)
    names = {"suite": "mini", **({"stress": stress} if stress else {})}
    config = {"attack": {"strength": 1, **attack}}
    return record(
        defense,
        evaluation(f"m{asr}", asr=asr),
        seed=seed,
        controls=controls,
        names=names,
        config=config,
    )


def by_defense(found: list[Row]) -> dict[str, Row]:
    made = {row.names["defense"]: row for row in found}
    assert len(made) == len(found)
    return made


def test_the_strength_that_is_worst_for_the_row_is_shown():
    records = [
        attacked(defense, asr, strength=strength)
        for defense, each in {"ft": (30, 60, 10), "lfpm": (5, 4, 9)}.items()
        for strength, asr in enumerate(each)
    ]
    made = by_defense(worst(rows(records), 80))
    assert made["ft"].mean("asr") == 60
    assert made["ft"].variant == "attack.strength=1"
    assert made["lfpm"].mean("asr") == 9
    assert made["lfpm"].variant == "attack.strength=2"
    assert made["lfpm"].reason is None


def test_an_attack_that_does_not_work_undefended_is_not_counted():
    weak = [attacked("lfpm", 50, undefended=79, strength=0)]
    strong = [attacked("lfpm", 3, undefended=80, strength=1)]
    (row,) = worst(rows([*weak, *strong]), 80)
    assert row.mean("asr") == 3
    assert row.reason == f"1 of 2 variants {NOT_COUNTED}"
    assert row.status == "done"
    (row,) = worst(rows(weak), 80)
    assert not row.stats
    assert row.status == NOT_COUNTED
    assert row.reason == f"{NOT_COUNTED}: undefended ASR 79.0 % at most, below 80 %"
    (row,) = worst(rows(weak), 0)
    assert row.mean("asr") == 50


def test_an_attack_that_is_not_counted_is_said_once():
    weak = [attacked(name, 50, undefended=79) for name in ("lfpm", "ft", "none")]
    other = [attacked(name, 50, undefended=90, stress="remerge") for name in ("lfpm", "none")]
    failed = record("sau", status="failed", reason="out of memory", names={"suite": "mini"})
    found = worst(rows([*weak, *other, failed]), 80)
    shown = sorted((row.names["defense"], row.status) for row in found if "stress" not in row.names)
    assert shown == [("none", NOT_COUNTED), ("sau", "failed")]
    assert {row.names["defense"] for row in found if "stress" in row.names} >= {"lfpm", "none"}


def test_nothing_that_failed_is_hidden_by_what_was_done():
    failed = record(
        "lfpm", status="failed", reason="out of memory", names={"suite": "mini"},
        config={"attack": {"strength": 2}},
    )  # fmt: skip
    (row,) = worst(rows([attacked("lfpm", 3), failed]), 80)
    assert row.mean("asr") == 3
    assert row.status == "partial"
    assert "out of memory" in (row.reason or "")
    (row,) = worst(rows([failed]), 80)
    assert row.status == "failed"


def test_stresses_are_rows_of_their_own_and_no_stress_is_one():
    records = [attacked("lfpm", 3), attacked("lfpm", 30, stress="remerge")]
    plain, remerged = worst(rows(records), 80)
    assert (plain.mean("asr"), remerged.mean("asr")) == (3, 30)
    assert "stress" not in plain.names
    assert remerged.names["stress"] == "remerge"
    assert not plain.variant


def test_other_tables_show_no_stressed_rows():
    records = [attacked("none", 95), attacked("none", 95, stress="remerge")]
    shown = make("attacks_defenses", records).rows
    assert {row.names["defense"] for row in shown} == {"none", "zero_shot", "drop_attacker"}
    assert not any("stress" in row.names for row in shown)


def test_the_table_says_what_was_worst_for_whom():
    records = [
        attacked(defense, asr, stress=stress)
        for stress in (None, "remerge")
        for defense, asr in (("none", 95), ("ft", 40), ("lfpm", 7 if stress else 2))
    ]
    table = make("adaptive", records, hits=hits(records))
    assert layout("adaptive").group_by == "worst"
    text = render(table, "md")
    assert re.search(r"\| remerge +\| lfpm +\| +95\.0 \| \*\*7\.0", text)
    note = worst_note(table.rows, layout("adaptive").references)
    assert note in text
    assert note.index("lfpm 7.0 (badmerging_on after remerge)") < note.index("ft 40.0")
    assert "none" not in note
    assert "zero_shot" not in note
    assert worst_note([], ()) == ""
    row = {row.names["defense"]: row for row in table.rows if "stress" in row.names}["lfpm"]
    assert row.mean("asr_defended_clean_merge") == 4
    assert row.mean("asr_did") == pytest.approx(3)
