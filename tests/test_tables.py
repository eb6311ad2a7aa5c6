"""Tables: counts to rates, differences within a seed, nothing dropped, the same to the byte."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import components
from benchmark.errors import BenchError
from benchmark.listing import listing
from benchmark.records import Count, Evaluation, Record, write
from benchmark.tables import (
    caption,
    dominating,
    find,
    flat,
    layout,
    make,
    reading,
    render,
    rows,
    status,
    status_text,
)
from benchmark.tables.layout import Column
from benchmark.tables.metrics import DIFFERENCES, METRICS, RATES, ends
from benchmark.tables.rows import Row
from benchmark.tables.stats import Measure, combine, over_seeds, wilson
from benchmark.tables.table import cells
from benchmark.tables.table import text as shown_in
from tests.made_records import CONTROLS, FLOOR, demo, evaluation, hits, line, record

GOLDEN = Path(__file__).parent / "golden"


def row_of(found: list[Row], defense: str) -> Row:
    (one,) = (row for row in found if row.names["defense"] == defense)
    return one


# -- statistics --


def test_wilson_agrees_with_the_textbook() -> None:
    # Newcombe 1998 (Stat Med 17:857), table I: 81/263 -> .2553 to .3662; 0/20 -> 0 to .1611.
    assert wilson(Count(81, 263)) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(Count(0, 20)) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(Count(20, 20))[1] == 1.0


def test_interval_of_a_difference_agrees_with_newcombe() -> None:
    # Newcombe 1998 (Stat Med 17:873), method 10, 56/70 - 48/80 -> .0524 to .3339.
    found = combine([(1, Count(56, 70)), (-1, Count(48, 80))])
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((20.0, 5.24, 33.39), abs=5e-3)


def test_sample_deviation() -> None:
    stat = over_seeds([Measure(value, 0, 1) for value in (0.1, 0.2, 0.3)])
    assert stat is not None
    assert (stat.mean, stat.sd) == pytest.approx((0.2, 0.1))
    assert stat.values == (0.1, 0.2, 0.3)
    # Student's t with two degrees of freedom is 4.3027; the measures' own bounds play no part.
    half = 4.302653 * 0.1 / 3**0.5
    assert (stat.low, stat.high) == pytest.approx((0.2 - half, 0.2 + half), rel=1e-6)
    one = over_seeds([Measure(2.0, 1.0, 4.0)])
    assert one is not None
    assert (one.mean, one.sd, one.low, one.high, one.values) == (2.0, None, 1.0, 4.0, (2.0,))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=6))
@settings(max_examples=50)
def test_the_interval_over_seeds_is_that_of_scipy(values: list[float]) -> None:
    stats = pytest.importorskip("scipy.stats")
    stat = over_seeds([Measure(value) for value in values])
    assert stat is not None
    half = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    centre = sum(values) / len(values)
    assert (stat.low, stat.high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_an_interval_over_seeds_ends_where_rates_do() -> None:
    """Student's t with one degree of freedom leaves per cents far behind."""
    ft = [record("ft", evaluation(f"{asr}", asr=asr), seed=at) for at, asr in enumerate((20, 90))]
    stats = row_of(rows(ft), "ft").stats
    assert (stats["asr"].mean, stats["asr"].low, stats["asr"].high) == (55, 0, 100)
    assert stats["asr_did"].values == (0, 70)  # the defended clean merge's ASR is 20
    assert (stats["asr_did"].low, stats["asr_did"].high) == (-100, 100)
    assert {*RATES, *DIFFERENCES, "kept"} == set(METRICS)
    for name in METRICS:
        found = stats.get(name)
        if found is not None and found.low is not None and found.high is not None:
            low, high = ends(name)
            assert low <= found.low <= found.mean <= found.high <= high


def test_json_holds_each_seeds_rates_with_their_own_intervals() -> None:
    ft = [record("ft", evaluation(f"{asr}", asr=asr), seed=at) for at, asr in enumerate((20, 90))]
    body = json.loads(render(make("demo", [*ft, record("lfpm")]), "json"))
    assert [(one["defense"], one["seed"]) for one in body["by_seed"]] == [("ft", 0), ("ft", 1)]
    low, high = wilson(Count(90, 100))
    assert body["by_seed"][1]["asr"] == pytest.approx([90, 100 * low, 100 * high], abs=1e-4)
    assert "asr_did" not in body["by_seed"][1]


def test_nothing_counted_is_no_number() -> None:
    assert combine([(1, Count(0, 0))]) is None
    assert over_seeds([]) is None


# -- rows --


def test_every_metric_of_one_record() -> None:
    main = evaluation("x", ca=(78, 54), asr=8, recall=43, triggered=90, flips=(6, 2))
    twin = evaluation("twin", asr=5)
    row = row_of(rows([record("lfpm", main, controls={"defended_clean_merge": twin})]), "lfpm")
    expected = {
        "ca": 66,
        "ca_clean_merge": 72,
        "ca_pretrained": 45,
        "ca_drop": 4,
        "ca_worst": 6,
        "ca_drop_clean": 2,  # 72 - 70
        "ca_worst_clean": 2,
        "kept": 84,  # (66 - 45) / (70 - 45)
        "asr": 8,
        "asr_undefended": 95,
        "asr_clean_merge": 20,
        "asr_defended_clean_merge": 5,
        "asr_excess": -12,
        "asr_did": 3,
        "asr_pretrained": 30,
        "asr_single": 100,
        "asr_without_attacker": 18,
        "target_recall": 86,
        "target_recall_undefended": 90,
        "recall_drop": 4,
        "triggered_acc": 60,
        "triggered_acc_clean_merge": 100 * 100 / 150,
        "triggered_drop": 100 * 10 / 150,
        "target_rate": 3,
        "flip_rate": 5,
        "misclassified": 40,
    }
    assert {name: stat.mean for name, stat in row.stats.items()} == pytest.approx(expected)
    low, high = wilson(Count(8, 100))
    assert (row.stats["asr"].low, row.stats["asr"].high) == pytest.approx((100 * low, 100 * high))


CURVE = line((0.0, 70, 95), (0.5, 69, 60), (1.0, 66, 8), (1.25, 67, 9), (1.5, 64, 2))


def test_asr_at_a_ca_loss_is_the_lowest_that_the_line_holds_there() -> None:
    row = row_of(rows([record("lfpm", curve=CURVE)]), "lfpm")
    # The loss is against the line's own first point, not against the row's undefended (70).
    assert [row.mean(f"asr_at_{drop}") for drop in (1, 3, 5)] == [60, 9, 8]
    assert row.stats["asr_at_3"].low is None
    assert row_of(rows([record()]), "none").mean("asr_at_1") is None


def test_a_line_that_only_gets_worse_stays_undefended() -> None:
    worse = line((0.0, 70, 40), (1.0, 71, 90))
    row = row_of(rows([record("ft", curve=worse)]), "ft")
    assert row.mean("asr_at_1") == 40
    alone = line((0.0, 70, 95), (1.0, 30, 0))
    assert row_of(rows([record("ft", curve=alone)]), "ft").mean("asr_at_5") == 95


def test_dev_and_test_images_never_share_a_table() -> None:
    nine = {"suite": "mini"}
    trial = record("ft", config={"suite": {"evaluate": "dev"}}, names=nine)
    both = [trial, record("ft", names=nine), record("lfpm", names=nine)]
    assert [row.names["defense"] for row in make("development", both).rows] == ["ft"]
    assert [row.variant for row in make("development", both).rows] == [""]
    assert [row.names["defense"] for row in make("attacks_defenses", both).rows] == ["ft", "lfpm"]
    assert "dev images that no method was granted" in render(make("development", both), "md")
    assert "dev images that" not in render(make("attacks_defenses", both), "md")


def test_of_several_threats_the_row_shows_its_worst() -> None:
    def two(key: str, first: int, second: int, recall: tuple[int, int] = (45, 40)) -> Evaluation:
        parts = [
            evaluation(key, asr=asr, recall=hits)
            for asr, hits in zip((first, second), recall, strict=True)
        ]
        other = replace(parts[1].threats[0], target=2)
        return replace(parts[0], threats=(parts[0].threats[0], other))

    controls = {name: two(name, 60, 3) for name in CONTROLS}
    controls["attacker_single"] = two("attacker_single", 99, 1)
    row = row_of(rows([record("ft", two("x", 10, 70), controls=controls)]), "ft")
    found = {name: stat.mean for name, stat in row.stats.items()}
    assert (found["asr"], found["asr_clean_merge"], found["asr_excess"]) == (70, 3, 67)
    assert (found["asr_did"], found["asr_pretrained"], found["target_recall"]) == (67, 3, 80)
    assert found["asr_single"] == 99
    equal = row_of(rows([record("ft", two("x", 70, 70), controls=controls)]), "ft")
    assert (equal.mean("asr_clean_merge"), equal.mean("target_recall")) == (60, 90)


def test_differences_are_taken_within_a_seed() -> None:
    pairs = [(50, 10), (70, 50), (90, 60)]
    made = [
        record("ft", evaluation("m", asr=asr), seed=seed, controls={"clean_merge": clean})
        for seed, (asr, floor) in enumerate(pairs)
        for clean in [evaluation("c", asr=floor)]
    ]
    row = row_of(rows(made), "ft")
    assert row.seeds == (0, 1, 2)
    assert (row.stats["asr"].mean, row.stats["asr"].sd) == pytest.approx((70, 20))
    # 40, 20, 30: its deviation is that of the differences, not of the two parts.
    assert (row.stats["asr_excess"].mean, row.stats["asr_excess"].sd) == pytest.approx((30, 10))


def test_images_are_not_pooled_over_seeds() -> None:
    big = evaluation("b", asr=100)
    threat = replace(big.threats[0], asr=Count(1000, 1000))
    made = [
        record("ft", evaluation("a", asr=0), seed=0),
        record("ft", replace(big, threats=(threat,)), seed=1),
    ]
    assert row_of(rows(made), "ft").mean("asr") == 50


def test_reference_rows_come_from_the_controls_of_the_undefended_cell() -> None:
    found = rows([record()])
    zero, dropped = row_of(found, "zero_shot"), row_of(found, "drop_attacker")
    assert (zero.mean("asr"), zero.mean("ca"), zero.mean("kept")) == (30, 45, 0)
    assert (dropped.mean("asr"), dropped.mean("ca_worst")) == pytest.approx((18, 10))
    assert dropped.mean("asr_did") == 0
    assert not [row for row in rows([record(names={"attack": "none"})]) if row.sees == zero.sees]


def test_undefended_is_its_own_reference() -> None:
    bare = record(controls={})
    controls = {k: v for k, v in CONTROLS.items() if k in ("clean_merge", "pretrained")}
    row = row_of(rows([replace(bare, controls=controls)]), "none")
    assert (row.mean("asr_did"), row.mean("ca_drop"), row.mean("kept")) == (75, 0, 100)


def test_cells_that_are_not_done_stand_in_the_table() -> None:
    nine = {"suite": "mini"}  # what the table shows
    made = [
        record("ft", seed=0, names=nine),
        record("ft", seed=1, status="failed", reason="killed", names=nine),
        record("ibvs", status="skipped", reason="needs two fine-tunes", names=nine),
        record("nad", status="not_implanted", reason="ASR 12 % on dev", names=nine),
    ]
    planned = [{**made[0].names, "seed": seed} for seed in (0, 1, 2)]
    planned += [{**made[0].names, "defense": "clp", "seed": 0}]
    found = rows(made, planned)
    ft = row_of(found, "ft")
    assert (ft.status, ft.reason) == ("partial", "seed 1 failed: killed; not run yet: seed 2")
    assert [row_of(found, one).status for one in ("ibvs", "nad", "clp")] == [
        "skipped",
        "not_implanted",
        "missing",
    ]
    shown = render(make("attacks_defenses", made, planned), "md")
    for text in ("killed", "needs two fine-tunes", "ASR 12 % on dev", "not run yet"):
        assert text in shown


def test_variants_are_told_apart_and_shared_seeds_refused() -> None:
    other = record("ft", config={"merge": {"values": {"scale": 0.4}}})
    assert [row.variant for row in rows([record("ft"), other])] == [
        "merge.scale=0.3",
        "merge.scale=0.4",
    ]
    with pytest.raises(BenchError, match="share a seed"):
        rows([record("ft"), record("ft")])


def test_controls_with_other_threats_are_refused() -> None:
    alien = replace(FLOOR, threats=(replace(FLOOR.threats[0], target=2),))
    with pytest.raises(BenchError, match="clean_merge"):
        rows([record("ft", controls={"clean_merge": alien})])


# -- the table --


@pytest.mark.parametrize("form", ["md", "csv", "tex", "json", "html"])
def test_golden(form: str) -> None:
    text = render(make("demo", demo(), hits=hits(demo())), form)
    assert text == render(make("demo", demo()[::-1], hits=hits(demo())), form)
    assert text == (GOLDEN / f"demo.{form}").read_text()


def test_what_a_method_says_of_itself_is_a_mean_over_its_seeds() -> None:
    told = [
        record("lfpm", seed=s, info={"model": {"lambda_a": v}}) for s, v in ((0, 0.4), (1, 0.8))
    ]
    (row,) = rows(told)
    assert row.costs["lambda_a"] == pytest.approx(0.6)
    assert row.costs["captured"] is None
    assert Column(key="lambda_a", header="scale", decimals=2).numeric
    assert shown_in(row, Column(key="lambda_a", header="scale", decimals=2)) == "0.60"


def test_caption_says_what_must_be_said() -> None:
    text = render(make("demo", demo()), "md")
    for words in (
        "embedded suite",
        "Seeds: 0.",
        "Selection: ",
        "lfpm is a reconstruction from the abstract and one reading note",
        "allowed to see",
        "with labels",
        "CA 200 of 2 tasks, ASR 100 of the target task, those of the target class left out",
        "To compute lfpm's row of badmerging_on x task_arithmetic again: `lfpm-bench run suite=",
    ):
        assert words in text


def seen(records: Sequence[Record]) -> str:
    """What a table without a column for it says of who saw what."""
    made = make("table_merges", records)
    (line,) = (one for one in caption(made) if "allowed to see" in one)
    return line


def test_caption_says_who_saw_what_by_the_names_that_tell_it() -> None:
    def cell(merge: str, needs: str, defense: str = "none", attack: str = "badnets") -> Record:
        names = {"suite": "mini", "merge": merge, "attack": attack}
        made = record(defense, names=names)
        return replace(made, needs={**made.needs, "merge": needs})

    dev = "300 unlabelled dev images per task"
    made = [cell("ties", "weights only"), cell("surgery", dev), cell("adamerging_lw", dev)]
    # In this table the defence is none throughout: it tells nothing.
    again = [cell("ties", "weights only", attack="badmerging_on")]
    assert seen([*made, *again]) == (
        f"What each row was allowed to see: adamerging_lw, surgery: {dev}; "
        "ties: weights only; the attacker (badmerging_on, badnets: its own task's images)."
    )
    assert seen(made[:1]).startswith("What every row was allowed to see: weights only; the att")


def test_a_variant_is_called_what_it_means() -> None:
    """Without `suite.precision` models are measured in the backbone's own, float32."""
    suites = ({}, {"precision": None}, {"precision": "bfloat16"}, {"precision": "float16"})
    made = [
        record(names={"suite": "mini"}, seed=at % 2, config={"suite": suite})
        for at, suite in enumerate(suites)
    ]
    table = make("precision", made)
    assert [row.variant for row in table.rows] == ["float32", "bfloat16", "float16"]
    text = render(table, "md")
    assert "absent" not in text
    assert "encoded again in float32" in text


def test_no_header_is_used_of_opposite_things() -> None:
    """Recall and what is lost of it stand in several tables: one is best high, the other low."""
    better: dict[str, dict[str, str]] = {}
    for name in components.options("table"):
        for column in layout(name).columns:
            if column.better is not None:
                better.setdefault(column.header.lower(), {})[column.better] = f"{name}.{column.key}"
    assert not {header: each for header, each in better.items() if len(each) > 1}
    assert {"recall", "recall lost", "recovered", "recovery lost"} <= set(better)


def test_json_rows_carry_the_promised_fields() -> None:
    body = json.loads(render(make("demo", demo()), "json"))
    promised = ["ca", "asr", "asr_clean_merge", "asr_excess", "asr_did", "target_recall"]
    for row in body["rows"]:
        assert {"attack", "merge", "defense", "n_seeds", "triggered_acc", *promised} <= set(row)
        assert {f"{name}_sd" for name in promised} <= set(row)
    ft = next(row for row in body["rows"] if row["defense"] == "ft")
    assert (ft["ca"], ft["asr"], ft["n_seeds"], ft["passes"]) == (85.0, 80.0, 1, 5000)
    assert len(list(csv.DictReader(io.StringIO(render(make("demo", demo()), "csv"))))) == 6


def test_best_is_bold_among_comparable_rows_only() -> None:
    text = render(make("demo", demo(), hits=hits(demo())), "md")
    (ft,) = (line for line in text.splitlines() if line.startswith("| ft "))
    (lfpm,) = (line for line in text.splitlines() if line.startswith("| lfpm "))
    (zero,) = (line for line in text.splitlines() if line.startswith("| zero_shot "))
    assert "**85.0" in ft
    assert "**8.0" in lfpm
    assert "**" not in zero


def test_a_defence_that_beats_the_subject_is_named_in_a_footnote() -> None:
    beaten = make("demo", demo(ft=(70, 5), lfpm=(80, 54)))
    text = render(beaten, "md")
    assert "- badmerging_on x task_arithmetic: ft is no worse than lfpm" in text
    assert "ASR 5.0 against 8.0, CA 75.0 against 66.0" in text
    assert "- badmerging_on" not in render(make("demo", demo()), "md")
    found = rows(demo(ft=(54, 8), lfpm=(80, 54)))
    assert dominating(row_of(found, "lfpm"), [row_of(found, "lfpm")]) == []


def test_reading_follows_the_numbers() -> None:
    survives, baselines, subject = reading(rows(demo()))
    assert "ASR 95.0 %" in survives
    assert "the backdoor survives the merge (+75.0 points above the floor)" in survives
    assert "ft ASR 80.0 at CA +15.0" in baselines
    assert "ibvs failed" in baselines
    assert "ASR 95.0 → 8.0 % (+3.0 points" in subject
    weak = record(main=evaluation("w", asr=22))
    assert "cannot be told from its floor" in reading(rows([weak]))[0]
    avoids = record("lfpm", evaluation("l", asr=0, recall=5))
    assert "less often" in reading(rows([record(), avoids]))[2]
    assert len(reading(rows([record("ft", status="failed", reason="x")]))) == 3
    fresh = record(names={"stress": "fresh_trigger"})
    assert "where a trigger searched anew on each model gets 20.0 %" in reading(rows([fresh]))[0]


def test_reading_names_the_case_in_which_the_subject_leaves_most() -> None:
    names = {"merge": "ties"}
    strong = [record(), record("lfpm", evaluation("l", asr=1))]
    weaker = record(main=evaluation("u", asr=90), names=names)
    said = reading(rows([*strong, weaker, record("lfpm", evaluation("m", asr=70), names=names)]))
    assert said[2].endswith("highest ASR in this table is 70.0 %: lfpm, badmerging_on x ties.")
    assert "highest ASR in this table" not in reading(rows(strong))[2]


def test_unknown_names_are_one_sentence() -> None:
    with pytest.raises(BenchError, match="did you mean 'demo'"):
        make("dmeo", demo())
    with pytest.raises(BenchError, match="no records for table 'demo'; run: make demo"):
        make("demo", [])
    with pytest.raises(BenchError, match="table format 'latx'"):
        render(make("demo", demo()), "latx")


@pytest.mark.parametrize("name", components.options("table"))
def test_layouts_are_valid(name: str) -> None:
    assert layout(name).columns


def test_find_reads_stores_and_folders(tmp_path: Path) -> None:
    assert find(tmp_path / "absent") == []
    for one in demo():
        write(tmp_path / "records", one)
    assert find(tmp_path) == find(tmp_path / "records") == sorted(demo(), key=lambda r: r.key)
    (tmp_path / "records" / "x.json").write_text("{")
    with pytest.raises(BenchError, match="not a record"):
        find(tmp_path)


def test_flat_rows_have_no_negative_zero() -> None:
    assert str(flat(row_of(rows([record()]), "zero_shot"))["asr_did"]) == "0.0"


# -- status and ls --


def test_status_counts_and_reasons() -> None:
    made = [record("ft"), record("ibvs", status="failed", reason="killed")]
    planned = [(one.key, {**one.names, "seed": one.seed}) for one in made]
    planned.append(("absent", {**made[0].names, "defense": "lfpm", "seed": 0}))
    report = status(planned, made)
    assert report["counts"] == {
        "done": 1,
        "missing": 1,
        "failed": 1,
        "skipped": 0,
        "not_implanted": 0,
        "running": 0,
        "stale": 0,
    }
    text = status_text(report)
    assert text.startswith("3 cells: 1 done, 1 missing, 1 failed")
    assert "defense=ibvs seed=0: killed" in text


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(components, "CONF", tmp_path)
    texts = {
        "run.yaml": "defaults:\n  - setting: plain\n",
        "setting/plain.yaml": "",
        "merge/one.yaml": "_target_: benchmark.tables.stats.Measure\nvalue: ${seed}\n",
        "experiment/small.yaml": "# @package _global_\n# 1 minute.\n# Command: x\nseed: 1\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_adapters_are_told_apart_and_full_fine_tuning_goes_without_saying():
    lora = {"peft": "lora_all"}
    every = [record("none"), record("ft"), record("none", names=lora), record("ft", names=lora)]
    made = make("demo", every)
    assert made.columns[0].key == "peft"
    twice = ["full"] * 4 + ["lora_all"] * 4  # none, zero_shot, drop_attacker, ft
    assert [line[0].text for line in cells(made)] == twice
    assert [len(made.layout.comparable(row, made.rows)) for row in made.rows] == [1] * 8
    table = list(csv.DictReader(render(made, "csv").splitlines()))
    assert [line["peft"] for line in table] == twice
    planned = [{**record("none").names, "seed": 0, "peft": "full"}]
    assert {row.status for row in rows([record("none")], planned)} == {"done"}
    assert "peft" not in [column.key for column in make("demo", every[:2]).columns]


def test_listing(conf: Path) -> None:
    assert listing("merges").startswith("one  One number at one seed")
    assert listing("experiments") == "small  1 minute.\n"
    assert "Command: x" in listing("experiments", verbose=True)
    verbose = listing("merge", verbose=True)
    assert "sees: depends on the configuration" in verbose
    assert "value: ${seed}" in verbose
    assert json.loads(listing("merges", as_json=True))[0]["name"] == "one"
    with pytest.raises(BenchError, match="did you mean 'merges'"):
        listing("merge_s")


def test_tables_start_without_heavy_imports() -> None:
    code = (
        "import sys, benchmark.tables, benchmark.report, benchmark.listing;"
        "bad = {'torch', 'hydra', 'omegaconf', 'pandas', 'jinja2', 'matplotlib', 'numpy'};"
        "sys.exit(', '.join(bad & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_option_given_later_does_not_part_a_cell_from_its_other_seeds() -> None:
    from benchmark.components import filled, option
    from benchmark.listing import default_budget
    from benchmark.tables.alike import telling

    after = {
        "backbone": option("backbone", "mini"),
        "finetune": filled(option("finetune", "mini"), default_budget()[1]),
        "suite": {**option("suite", "mini"), "precision": None},
        "seed": 1,
    }
    later = {"backbone": ("name", "precision", "micro_batch", "compiled"), "finetune": ("crop",)}
    before = {
        group: {k: v for k, v in node.items() if k not in (*later.get(group, ()), "precision")}
        for group, node in after.items()
        if group != "seed"
    }
    assert telling({**before, "seed": 0}) == telling(after)
    for group, name, value in (
        ("backbone", "precision", "bfloat16"),
        ("finetune", "crop", 0.5),
        ("suite", "precision", "bfloat16"),
    ):
        assert telling({**after, group: {**after[group], name: value}}) != telling(after)
    unkeyed = {**after, "backbone": {**after["backbone"], "micro_batch": 8}}
    assert telling(unkeyed) == telling(after)
