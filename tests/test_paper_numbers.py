"""Published numbers stand in columns of their own, with source and status; nothing is made up."""

from __future__ import annotations

import csv
import json
import sys
from typing import Any

import pytest
import yaml

from benchmark.components import CONF, build, options
from benchmark.errors import BenchError
from benchmark.tables import Layout, layout, make, render, table
from benchmark.tables.layout import Column
from benchmark.tables.published import NOT_RUN, Published, published_value, with_published
from benchmark.tables.rows import Row
from tests.made_records import evaluation, record

NAMES = {"attack": "badmerging_on", "merge": "task_arithmetic"}
PAPERS = [name for name in options("table") if layout(name).published]


def papers() -> list[Any]:
    return [
        record("none", evaluation("n", ca=(80, 60), asr=95), names={"suite": "mini"}),
        record("lfpm", evaluation("l", ca=(78, 54), asr=0), names={"suite": "mini"}),
    ]


def shown(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells of every row of a Markdown table."""
    rows = [[one.strip(" *") for one in line.split("|")[1:-1]] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 3}


def test_ours_the_published_and_the_difference_stand_side_by_side() -> None:
    rows = shown(render(make("lfpm_paper_table", papers()), "md"))
    assert rows["none"][:7] == [
        "70.0 [63.4, 75.6]", "63.62 (a)", "+6.4", "95.0 [88.8, 97.8]", "98.42 (a)", "-3.4",
        "69.64 (a)",
    ]  # fmt: skip
    assert rows["lfpm"][4:6] == ["0.49 (a)", "-0.5"]
    assert rows["ibvs"][:7] == ["–", "42.85 (a)", "–", "–", "64.18 (a)", "–", "58.53 (a)"]
    assert rows["ibvs"][-1] == NOT_RUN


def test_source_and_status_are_told() -> None:
    text = render(make("lfpm_paper_table", papers()), "md")
    assert "a: LFPM (arXiv 2606.12498), its averages" in text
    assert "(second-hand)." in text
    body = json.loads(render(make("lfpm_paper_table", papers()), "json"))
    (lfpm,) = (row for row in body["rows"] if row["defense"] == "lfpm")
    assert lfpm["published"][0]["values"] == {"ca": 58.67, "asr": 0.49, "asr_n": 9.85}
    assert lfpm["published"][0]["status"] == "second-hand"
    lines = csv.DictReader(render(make("lfpm_paper_table", papers()), "csv").splitlines())
    (sau,) = (line for line in lines if line["defense"] == "sau")
    assert (sau["asr_n_published"], sau["asr"], sau["status"]) == ("63.93", "", "missing")
    assert sau["asr_source"].endswith("(second-hand)")


def test_what_is_not_known_stays_empty() -> None:
    made = make("badmerging_table", papers()[:1])
    text = render(made, "md")
    lines = [line for line in text.splitlines() if line.startswith("| badmerging_on")]
    (ties,) = (line for line in lines if "| ties" in line)
    cells = [one.strip() for one in ties.split("|")[1:-1]]
    at = {column.title: i for i, column in enumerate(made.columns)}
    assert cells[at["ASR %"] + 1] == "99.26 (a)"
    assert cells[at["BA %"] + 1] == cells[at["CA %"] + 1] == "–"
    assert cells[at["floor"] + 1] == "93.55 (b)"


def test_another_setting_of_a_publication_is_a_row_without_numbers_of_ours() -> None:
    ours = record(names={"suite": "mini", "merge": "adamerging_lw"})
    made = make("badmerging_table", [ours])
    (here, there) = (row for row in made.rows if row.names["merge"] == "adamerging_lw")
    assert (here.mean("asr"), there.mean("asr")) == (95, None)
    assert (there.variant, there.status, there.stats) == ("adversary ImageNet100", "published", {})
    said = [published_value(made.layout.published, row, "asr") for row in (here, there)]
    assert said == [(99.48, "a"), (99.98, "a")]


def test_rows_are_added_only_where_there_is_none() -> None:
    one = Published(names=NAMES, values={"asr": 1.0}, source="x", status="read")
    row = Row({**NAMES, "suite": "mini", "defense": "none"}, "", "done", None)
    assert with_published([row], [one], {"suite": "mini"}) == [row]
    (added,) = with_published([], [one, one], {"suite": "mini"})
    assert (added.names["suite"], added.status, added.reason) == ("mini", "missing", NOT_RUN)


def test_a_table_without_records_is_refused_even_if_numbers_are_published() -> None:
    with pytest.raises(BenchError, match="no records for table 'lfpm_paper_table'"):
        make("lfpm_paper_table", [])


def test_differences_have_a_sign_and_no_negative_zero() -> None:
    column = Column(key="asr", header="", show="difference")
    paper = Published(names=NAMES, values={"asr": 95.0}, source="x", status="read")
    (row,) = (r for r in make("lfpm_paper_table", papers()).rows if r.names["defense"] == "none")
    assert table.text(row, column, [paper]) == "0.0"
    assert column.number(row) is None  # never ranked


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ({"key": "asr_x", "show": "published"}, "unknown column 'asr_x'"),
        ({"key": "asr_n", "show": "difference"}, "asr_n is not measured here"),
        ({"key": "asr_n"}, "unknown column 'asr_n'"),
    ],
)
def test_columns_that_can_show_nothing_are_refused(
    column: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = yaml.safe_load((CONF / "table/lfpm_paper_table.yaml").read_text())
    node["columns"].append({"header": "x", **column})
    # By its module: the package has a function of the same name.
    monkeypatch.setattr(sys.modules[Layout.__module__], "option", lambda group, name: node)
    with pytest.raises(BenchError, match=sentence):
        layout("lfpm_paper_table")


@pytest.mark.parametrize("name", PAPERS)
def test_every_published_number_has_its_place(name: str) -> None:
    style: Layout = layout(name)
    shown_there = {column.key for column in style.columns if column.show == "published"}
    for one in style.published:
        assert set(one.values) <= shown_there
        assert style.rows.shows({"suite": style.rows.suite[0], **one.names})
        for group in ("attack", "merge", "defense"):
            assert one.names[group] in options(group)


def test_a_status_is_one_of_three() -> None:
    node = {"names": NAMES, "values": {"asr": 1}, "source": "x", "status": "rumour"}
    target = "benchmark.tables.published.Published"
    with pytest.raises(BenchError, match="status='rumour' is not valid"):
        build({"_target_": target, **node}, "table.x")
