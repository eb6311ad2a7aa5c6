"""Tables over settings: each setting weighs the same, and intervals come from drawing settings."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from benchmark.records import Record
from benchmark.tables import Layout, dominating, make, render, rows, setting_of, table
from benchmark.tables.layout import Column, layout
from benchmark.tables.pooled import place, pooled, too_weak
from benchmark.tables.rows import Row
from benchmark.tables.stats import bootstrap, over_settings, student
from tests.made_records import evaluation, record

# -- the bootstrap --


def test_one_cluster_is_exact_and_has_no_interval_of_its_own() -> None:
    assert bootstrap([7.5]) == (7.5, 7.5)
    assert (over_settings([7.5]).low, over_settings([7.5]).high) == (None, None)


numbers = st.lists(st.integers(-100, 100).map(float), min_size=2, max_size=8)


@given(numbers)
@hypothesis_settings(max_examples=25)
def test_the_interval_is_symmetric_and_seeded(values: list[float]) -> None:
    low, high = bootstrap(values, draws=200)
    assert bootstrap([-value for value in values], draws=200) == pytest.approx((-high, -low))
    assert bootstrap(values, draws=200) == (low, high)
    shifted = bootstrap([value + 10 for value in values], draws=200)
    assert shifted == pytest.approx((low + 10, high + 10))
    assert min(values) <= low <= high <= max(values)


def test_another_seed_draws_otherwise() -> None:
    values = [1.0, 5.0, 20.0, 3.0, 8.0, 13.0, 40.0]
    assert len({bootstrap(values, draws=50, seed=seed) for seed in range(5)}) > 1


def test_few_clusters_agree_with_counting_every_resample() -> None:
    values = [0.0, 3.0, 12.0, 30.0]
    every = sorted(fmean(one) for one in itertools.product(values, repeat=4))
    cut = int(0.025 * len(every))
    assert bootstrap(values, draws=20_000) == pytest.approx((every[cut], every[-1 - cut]), abs=0.8)


def test_many_clusters_agree_with_the_normal_formula() -> None:
    values = [NormalDist(10, 4).inv_cdf((i + 0.5) / 200) for i in range(200)]
    half = 1.96 * stdev(values) / 200**0.5
    assert bootstrap(values) == pytest.approx((10 - half, 10 + half), abs=0.05)


@pytest.mark.parametrize(
    ("freedom", "known"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (30, 2.04227)]
)
def test_quantiles_of_student(freedom: int, known: float) -> None:
    assert student(freedom) == pytest.approx(known, abs=1e-4)


# -- rows over settings --

PLACES = [("flags", 1, "center"), ("flags", 2, "center"), ("landuse", 1, "top_left")]
ASR = {"lfpm": [2, 4, 12], "ft": [60, 80]}


def cell(defense: str, at: int, asr: int, seed: int = 0, undefended: int = 95) -> Record:
    adversary, target, spot = PLACES[at]
    attack = {"adversary": adversary, "target": target, "place": spot}
    made = evaluation("x", ca=(80, 60 - at), asr=asr)
    return record(
        defense,
        made,
        seed=seed,
        names={"suite": "mini"},
        config={"attack": attack, "defense": {"lr": 1}},
        controls={"undefended": evaluation("u", asr=undefended)},
    )


def three() -> list[Record]:
    return [cell(name, at, asr) for name, values in ASR.items() for at, asr in enumerate(values)]


def one_of(found: list[Row], defense: str) -> Row:
    (row,) = (row for row in found if row.names["defense"] == defense)
    return row


def test_every_setting_weighs_the_same_however_many_seeds() -> None:
    many = [cell("lfpm", 0, asr, seed) for seed, asr in enumerate((10, 20, 30))]
    row = one_of(pooled(rows([*many, cell("lfpm", 1, 80)]), "lfpm"), "lfpm")
    assert row.mean("asr") == pytest.approx((20 + 80) / 2)
    assert sorted(row.stats["asr"].values) == [20, 80]
    assert row.seeds == (0, 1, 2)


def test_pooled_numbers() -> None:
    found = pooled(rows(three()), "lfpm")
    lfpm, ft = one_of(found, "lfpm"), one_of(found, "ft")
    assert lfpm.mean("asr") == pytest.approx(6)
    assert (lfpm.stats["asr"].sd, len(lfpm.parts)) == (None, 3)
    assert (lfpm.stats["asr"].low, lfpm.stats["asr"].high) == bootstrap([2, 4, 12])
    # Only where both were measured: 60 - 2 and 80 - 4, not 70 - 6.
    assert ft.mean("asr_against") == pytest.approx((58 + 76) / 2)
    assert ft.stats["asr_against"].values == (58, 76)
    assert ft.mean("ca_against") == 0
    assert lfpm.mean("asr_against") is None


def test_the_worst_setting_is_by_what_is_better() -> None:
    row = one_of(pooled(rows(three()), "lfpm"), "lfpm")
    low = Column(key="asr", header="", better="lower", show="worst")
    high = Column(key="ca", header="", better="higher", show="worst")
    assert (low.number(row), high.number(row)) == (12, 69)
    assert Column(key="asr", header="", show="high").number(row) == row.stats["asr"].high


def test_values_of_a_defence_still_make_rows_of_their_own() -> None:
    from dataclasses import replace

    other = [
        replace(one, key=f"{one.key}-b", config={**one.config, "defense": {"lr": 2}})
        for one in three()
        if one.names["defense"] == "ft"
    ]
    found = pooled(rows([*three(), *other]), "lfpm")
    assert [row.variant for row in found if row.names["defense"] == "ft"] == [
        "defense.lr=1",
        "defense.lr=2",
    ]
    assert one_of(found, "lfpm").variant == ""


def test_settings_measured_before_and_after_an_option_was_added_are_one_row() -> None:
    from dataclasses import replace

    def made(one: Record, **later: None) -> Record:
        return replace(one, config={**one.config, "suite": {"granted": 300, **later}})

    first, second, third = three()[:3]
    mixed = [made(first), made(second, precision=None), made(third)]
    row = one_of(pooled(rows(mixed), "lfpm"), "lfpm")
    assert (len(row.parts), row.variant) == (3, "")


def test_a_setting_names_every_plant_and_nothing_else() -> None:
    one = {"adversary": "flags", "target": 2, "place": "center", "size": 6}
    assert setting_of({"attack": {**one, "lr": 1}}) == "flags 2 center"
    assert setting_of({"attack": {"plants": [one, {**one, "target": 3}]}}) == (
        "flags 2 center, flags 3 center"
    )
    assert setting_of({"attack": {"place": [3, 4]}}) == "[3,4]"
    assert setting_of({}) == ""


def test_settings_where_the_attack_did_too_little_are_named_and_not_counted() -> None:
    made = [*three(), cell("none", 2, 70, undefended=70)]
    weak = [one for one in rows([cell("lfpm", 2, 12, undefended=70), *made[:2]]) if one.stats]
    (place_of,) = too_weak(weak, 80)
    assert place_of == ("mini", "task_arithmetic", "badmerging_on", "landuse 1 top_left")
    assert too_weak(weak, 70) == set()
    assert len([row for row in weak if place(row) not in too_weak(weak, 80)]) == 2


STYLE = """
title: T
caption: C.
selection: none
subject: lfpm
subject_is: reconstruction
command: run it
group_by: setting
least_asr: 80
columns:
  - {key: defense, header: Defence}
  - {key: asr, header: ASR, better: lower, spread: true}
  - {key: asr, header: worst, better: lower, show: worst}
  - {key: asr_against, header: against, spread: true}
  - {key: n_settings, header: n}
"""


@pytest.fixture
def style(monkeypatch: pytest.MonkeyPatch) -> Layout:
    import yaml

    from benchmark.components import build

    node = {"_target_": "benchmark.tables.layout.Layout", **yaml.safe_load(STYLE)}
    made: Layout = build(node, "table")
    monkeypatch.setattr(table, "layout", lambda name: made)
    return made


def test_the_table_says_what_it_averages_and_what_it_left_out(style: Layout) -> None:
    weak = [cell("lfpm", 2, 0, undefended=79)]
    made = [one for one in three() if one.config["attack"]["place"] == "center"]
    text = render(make("x", [*made, *weak]), "md")
    (line,) = (line for line in text.splitlines() if line.startswith("| lfpm"))
    shown = [one.strip(" *") for one in line.split("|")[2:-1]]
    assert shown == ["3.0 [2.0, 4.0]", "4.0", "–", "2"]
    assert "Not counted, since undefended ASR is below 80 % there: " in text
    assert "badmerging_on landuse 1 top_left" in text
    assert "means over settings" in text
    assert "bootstrap" in text


def test_what_was_not_run_yet_is_said_with_its_setting(style: Layout) -> None:
    names = {"suite": "mini", "attack": "badmerging_on", "merge": "task_arithmetic"}
    planned = [
        {**names, "defense": one, "seed": 0, "setting": "flags 1 top_left", "key": f"absent {one}"}
        for one in ("ft", "clp")
    ]
    found = make("x", three(), planned).rows
    assert [(row.names["defense"], row.status) for row in found] == [
        ("clp", "missing"), ("ft", "partial"), ("lfpm", "done"),
    ]  # fmt: skip
    assert found[1].reason == "badmerging_on flags 1 top_left: not run yet: seed 0"
    assert found[1].mean("asr") == 70
    more = [{**planned[0], "setting": f"flags {at} center", "key": f"k{at}"} for at in range(4)]
    assert make("x", three(), more).rows[0].reason == "4 settings: not run yet: seed 0"


def over(defense: str, asr: Sequence[int], ca: int = 60) -> list[Record]:
    """One cell per setting, in the same order for every defence."""
    return [
        record(
            defense,
            evaluation(f"{defense} {at}", ca=(80, ca), asr=one),
            names={"suite": "mini"},
            config={"attack": {"adversary": "flags", "target": at, "place": "center"}},
        )
        for at, one in enumerate(asr)
    ]


def test_rows_over_other_settings_are_tested_on_those_that_both_have(style: Layout) -> None:
    lfpm = [10, 12, 14, 16, 18, 20, *[30] * 6]
    found = make("x", [*over("lfpm", lfpm), *over("ft", [60] * 6), *over("clp", [70] * 5)])
    assert [row.names["defense"] for row in found.rows] == ["clp", "ft", "lfpm"]
    assert all(len(style.comparable(row, found.rows)) == 3 for row in found.rows)
    (one,) = found.tests  # five settings can show nothing: 2 of 32 patterns of signs
    assert (one.metric, one.rows, one.p) == ("asr", (1, 2), 2 / 64)
    assert one.differences == (50, 48, 46, 44, 42, 40)
    text = render(found, "md")
    assert "over the 6 settings that two rows share (with 6 no p value is below 0.031)" in text
    assert "2 of 3 pairs of ranked rows are not tested, since they share fewer than 6" in text
    assert "**2" not in text  # every other row must be beaten


def test_a_rival_is_no_worse_on_the_settings_that_both_have(style: Layout) -> None:
    """Where its mean over its own settings is worse: the subject's others are easier."""
    made = [*over("lfpm", [50, 70, 0, 0]), *over("ft", [48, 66], ca=64)]
    found = {row.names["defense"]: row for row in make("x", made).rows}
    assert (found["lfpm"].mean("asr"), found["ft"].mean("asr")) == (30, 57)
    assert dominating(found["lfpm"], list(found.values())) == [found["ft"]]
    text = render(make("x", made), "md")
    assert "over the 2 settings that both have: ASR 57.0 against 60.0, CA 72.0 against 70.0" in text
    assert dominating(found["ft"], list(found.values())) == []


def test_json_holds_the_settings_and_csv_the_extremes(style: Layout) -> None:
    found = make("x", three())
    body = json.loads(render(found, "json"))
    (lfpm,) = (row for row in body["rows"] if row["defense"] == "lfpm")
    assert [one["setting"] for one in lfpm["settings"]] == [
        "flags 1 center", "flags 2 center", "landuse 1 top_left",
    ]  # fmt: skip
    assert [one["asr"] for one in lfpm["settings"]] == [2, 4, 12]
    (ft,) = (r for r in csv.DictReader(io.StringIO(render(found, "csv"))) if r["defense"] == "ft")
    assert (ft["n_settings"], ft["asr_most"], ft["asr_against"]) == ("2", "80.0", "67.0")
    assert ft["asr_against_settings"] == "2"


def test_the_order_of_records_changes_nothing(style: Layout) -> None:
    forms = ("md", "csv", "json", "html")
    first = [render(make("x", three()), form) for form in forms]
    assert first == [render(make("x", three()[::-1]), form) for form in forms]


@pytest.mark.parametrize("name", ["heldout_lfpm"])
def test_the_headline_table_is_over_settings(name: str) -> None:
    assert layout(name).group_by == "setting"
    assert layout(name).least_asr == 80
