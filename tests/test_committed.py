"""Every table under results/ is, to the byte, what the records beside it give."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from benchmark.__main__ import main
from benchmark.committed import PAGE, RESULTS, folders, made, names, page
from benchmark.report.page import NOTES
from benchmark.tables import Table, layout, render

FILES = [path for name in names() for path in sorted((RESULTS / name).glob(f"{name}.*"))]
table = cache(made)


def test_no_folder_of_records_is_without_its_table() -> None:
    found = {path.parent.name for path in RESULTS.glob("*/records")}
    assert found <= set(names())
    assert len(FILES) >= 3 * len(names()) > 9


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_is_what_the_records_give(path: Path) -> None:
    assert path.read_text() == render(table(path.stem), path.suffix[1:])


def test_the_demo_s_page_is_what_the_records_give() -> None:
    assert PAGE.read_text() == page() == page()


def test_every_page_says_the_same_of_how_its_methods_were_chosen() -> None:
    for folder in ("benchmark", "conf"):
        for path in (RESULTS.parent / folder).rglob("*.*"):
            if path.suffix in (".py", ".yaml", ".j2"):
                joined = re.sub(r'"\s+f?"', "", path.read_text())
                assert "not tuned" not in " ".join(joined.split()), path
    assert layout("attacks_defenses").selection == layout("demo").selection
    assert any("No test image was used in choosing anything." in note for note in NOTES)


@pytest.mark.parametrize("name", names())
def test_hits_belong_to_records(name: str) -> None:
    from benchmark.tables import find

    for folder in folders(name):
        known = {record.main.key for record in find(folder) if record.main is not None}
        assert {path.stem for path in (folder / "hits").glob("*")} <= known


def test_a_missing_record_changes_the_table() -> None:
    from benchmark.tables import gather, make

    records, hits = gather(folders("table_lfpm"))
    last = max(at for at, one in enumerate(records) if one.names["defense"] == "lfpm")
    short: Table = make("table_lfpm", records[:last] + records[last + 1 :], hits=hits)
    assert render(short, "csv") != render(table("table_lfpm"), "csv")


@pytest.mark.parametrize("name", ["demo", "table_lfpm_labels", "lfpm_paper_table"])
def test_the_command_gives_the_committed_table(name: str, capsys) -> None:
    """Of one folder, of several, and of another table's alone."""
    assert main(["tables", name, "--records", str(RESULTS)]) == 0
    assert capsys.readouterr().out == render(table(name), "md")


def test_a_folder_of_records_is_taken_as_it_is() -> None:
    from benchmark.tables import folders as asked

    one = RESULTS / "table_lfpm_labels"
    assert asked("table_lfpm_labels", [one]) == [one]
    assert asked("table_lfpm_labels", [RESULTS]) == [one, RESULTS / "table_lfpm"]
    assert asked("table_lfpm_labels", [RESULTS, one, RESULTS / "demo/records"]) == [
        one, RESULTS / "table_lfpm", RESULTS / "demo/records",
    ]  # fmt: skip
