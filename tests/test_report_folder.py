"""The report as a folder: a page per cell, links that lead somewhere, pictures, logs."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.__main__ import main
from benchmark.artifacts import dump_compromise
from benchmark.attacks.triggers import Patch
from benchmark.committed import RESULTS
from benchmark.recorded import record_cell
from benchmark.records import Record, write
from benchmark.report import Page, write_folder
from benchmark.report.entries import entries, entries_of
from benchmark.report.logs import LINES, tails
from benchmark.report.panels import curves, mean_line, rates
from benchmark.report.parts import curve_words
from benchmark.report.pictures import prompts, triggers
from benchmark.store import Store, key_of
from benchmark.tables import find, make, rows
from benchmark.types import Compromise, Threat
from tests.made_records import demo, evaluation, line, record
from tests.small import ROOT
from tests.test_diagnose import folder as diagnosed
from tests.test_diagnose import found
from tests.test_report import Balance

EVIL = "<script>alert('x')</script>"


def made() -> list[Record]:
    """The demo's cells, two seeds of one of them, curves, and a reason that is no text."""
    *others, failed = demo()
    curved = [
        replace(others[2], curve=line((0.0, 80, 95), (1.0, 78, 5))),
        record(
            "lfpm", evaluation("lfpm", ca=(78, 54), asr=10), seed=1,
            curve=line((0.0, 76, 85), (1.0, 74, 15)),
        ),
    ]  # fmt: skip
    return [*others[:2], *curved, replace(failed, reason=EVIL)]


@pytest.fixture
def folder(tmp_path) -> Path:
    page = Page(tables=[make("demo", made())], records=made(), command="make <demo>")
    write_folder(tmp_path / "report", page, Store(tmp_path / "store"))
    return tmp_path / "report"


def pages(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.html"))


def test_every_cell_has_a_page_and_every_link_leads_somewhere(folder):
    every = pages(folder)
    assert len(every) == 1 + 4  # lfpm's two seeds share one
    linked = set()
    for path in every:
        text = path.read_text()
        parser = Balance()
        parser.feed(text)
        assert parser.open == []
        ids = set(re.findall(r'id="([^"]+)"', text))
        for link in re.findall(r"""(?:src|href)=["']([^"']+)""", text):
            target, _, place = unquote(link).partition("#")
            assert "//" not in link
            assert (path.parent / target).is_file() or target == ""
            if target:
                linked.add((path.parent / target).resolve())
            elif place:
                assert place in ids
    assert {path.resolve() for path in every} <= linked


def test_what_records_say_is_text_and_never_markup(folder):
    for path in pages(folder):
        assert "alert" not in path.read_text().replace("&lt;script&gt;alert", "")
    page = next(path for path in pages(folder) if "ibvs" in path.name).read_text()
    assert "Nothing was measured" in page
    assert "seed 0 failed: &lt;script&gt;" in page
    assert "no longer has an option" not in page
    assert "make &lt;demo&gt;" in (folder / "index.html").read_text()


def test_a_report_is_the_same_each_time_and_leaves_no_page_of_another(folder, tmp_path):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    page = Page(tables=[make("demo", made())], records=made(), command="make <demo>")
    write_folder(folder, page, Store(tmp_path / "store"))
    assert {path: path.read_bytes() for path in before} == before
    alone = made()[:1]
    write_folder(folder, Page([make("demo", alone)], alone), Store(tmp_path / "store"))
    assert len(pages(folder)) == 2


def test_rows_lead_to_the_cells_they_show():
    every = entries(made())
    assert [(one.name, len(one.records)) for one in every] == [
        ("ft", 1), ("ibvs", 1), ("lfpm", 2), ("none", 1),
    ]  # fmt: skip
    by_name = {row.names["defense"]: entries_of(row, every) for row in rows(made())}
    assert [one.name for one in by_name["zero_shot"]] == ["none"]
    assert [one.name for one in by_name["lfpm"]] == ["lfpm"]
    missing = rows([], [{"attack": "badnets", "merge": "ties", "defense": "ft"}])
    assert entries_of(missing[0], every) == []
    both = tuple(row for row in rows(made()) if row.names["defense"] in ("ft", "zero_shot"))
    pooled = replace(both[0], names={**both[0].names, "attack": "all of them"}, parts=both)
    assert [one.name for one in entries_of(pooled, every)] == ["ft", "none"]


def test_records_from_before_an_option_are_of_the_same_cell():
    earlier = record("ft", evaluation("a", asr=60), config={"suite": {"granted": 300}})
    suite = {"granted": 300, "precision": None}
    later = record("ft", evaluation("b", asr=40), seed=1, config={"suite": suite})
    (entry,) = entries([later, earlier])
    assert entry.records == (earlier, later)
    (row,) = rows([later, earlier])
    assert entries_of(row, [entry]) == [entry]
    assert entries_of(rows([later])[0], [entry]) == [entry]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/records")), ids=lambda p: p.parent.name)
def test_no_record_is_without_a_page(path):
    every = find(path)
    assert sum(len(entry.records) for entry in entries(every)) == len(every) > 0


def test_curves_are_the_means_of_what_records_hold():
    assert rates(evaluation(ca=(80, 60), asr=95)) == (70.0, 95.0)
    both = curves(made())
    assert both[0] == ([(0.0, 80.0), (1.0, 78.0)], [(0.0, 95.0), (1.0, 5.0)])
    assert mean_line([pair[1] for pair in both]) == [(0.0, 90.0), (1.0, 10.0)]
    assert mean_line([[(0.0, 1.0), (1.0, 3.0)], [(1.0, 5.0)]]) == [(1.0, 4.0)]
    assert curve_words(both) == "CA 78.0 → 76.0, ASR 90.0 → 10.0"


def test_pages_show_curves_tasks_and_controls(folder):
    index = (folder / "index.html").read_text()
    (panel,) = re.findall(r'<svg [^>]*class="panel".*?</svg>', index)
    assert panel.count('class="line') == 6  # two means, two seeds each
    assert re.search(r'data-label="digits">80.0 <small>\+0.0</small>', index)  # ft
    assert re.search(r'data-label="signs">90.0 <small>\+30.0</small>', index)
    page = next(path for path in pages(folder) if "lfpm" in path.name).read_text()
    assert "CA 78.0 → 76.0, ASR 90.0 → 10.0" in page
    assert re.search(
        r'data-label="Model">attacker&#39;s own model</td><td[^>]*>70.0 ± 0.0</td>', page
    )
    for seed in (0, 1):
        assert re.search(f"lfpm-bench run .*defense=lfpm .*seed={seed}</pre>", page)


def test_a_diagnosis_is_on_the_page_of_its_cell(tmp_path):
    records = made()
    seen = diagnosed(tmp_path / "diagnosis", found(key=records[2].key))
    page = Page([make("demo", records)], records, diagnoses=[seen])
    write_folder(tmp_path / "report", page, Store(tmp_path / "store"))
    index = (tmp_path / "report/index.html").read_text()
    (cell,) = (tmp_path / "report/cells").glob("*lfpm*")
    assert f'<a href="cells/{cell.name}">Numbers per layer and mined prompts' in index
    assert "data:image/png" not in index
    assert index.count('class="lines"') == cell.read_text().count('class="lines"') - 1 == 4
    assert "data:image/png" in cell.read_text()
    assert "0.999 ± 0.010" in cell.read_text()


def test_the_ends_of_logs_are_shown(tmp_path):
    store = Store(tmp_path)
    one = record(status="failed", reason="it died")
    one = replace(one, parents={"experts": {"signs": "abc/signs"}, "model": "def"})
    assert tails(one, store) == []
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "abc.log").write_text("".join(f"line {at}\n" for at in range(100)))
    (logs / "def.log").write_text("")
    (logs / "other.log").write_text("not ours")
    ((key, text),) = tails(one, store)
    assert key == "abc"
    assert text.splitlines() == [f"line {at}" for at in range(100 - LINES, 100)]


def stored(tmp_path: Path) -> tuple[Record, Store, torch.Tensor]:
    """A real record and a store with its attack, its test images and its defended model."""
    one = next(r for r in find(ROOT / "results/demo") if r.names["defense"] == "lfpm")
    store, images = Store(tmp_path), torch.full((8, 3, 32, 32), 51, dtype=torch.uint8)
    patch = Patch(torch.ones(3, 4, 4), 28, 28)
    threat = Threat(patch, "signs", 1, ("signs",))
    store.save("attack", one.parents["attack"], dump_compromise(Compromise({}, (threat,))), {})
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, :2, :2] = 1
    tensors = {"artifact/prompt/signs": mask * 0.5 * torch.ones(2, 3, 32, 32)}
    tensors |= {"artifact/mask/signs": mask, "encoder/w": torch.zeros(3)}
    store.save("defend", one.parents["model"], (tensors, {}), {})
    return one, store, images


def test_triggers_are_shown_as_far_as_the_store_has_them(tmp_path):
    one, store, images = stored(tmp_path)
    (grey,) = triggers([one], store)
    assert grey.pixels.shape == (32, 32, 3)
    assert grey.pixels[-1, -1].tolist() == [255] * 3
    assert list(prompts(one, store)) == []  # no picture to show them on
    data = record_cell(one).data("signs", "test")
    store.save("data", key_of(*data), ({"images": images}, {}), {})
    (strip,) = triggers([replace(one, seed=7), one], store)
    assert "seed" in strip.caption
    assert strip.pixels.shape == (3 * 32, 6 * 32, 3)
    clean, triggered, change = np.split(strip.pixels, 3)
    assert (clean == 51).all()
    assert (triggered[-1, -1] == 255).all()
    assert (triggered[0, 0] == 51).all()
    assert (change[-1, -1] == 255).all()
    assert (change[0, 0] == 128).all()
    (sheet,) = prompts(one, store)
    assert "the 2 prompts mined" in sheet.caption
    assert triggers([one], Store(tmp_path / "empty")) == []
    assert triggers([replace(one, config={**one.config, "dataset": {}})], store) == []
    page = Page([make("demo", [one])], [one])
    write_folder(tmp_path / "report", page, store)
    for path in (tmp_path / "report/pictures").iterdir():
        Image.open(path).verify()
    (cell,) = (tmp_path / "report/cells").iterdir()
    assert cell.read_text().count("<img") == 2


def test_the_command_gathers_every_table_of_a_folder(tmp_path, capsys):
    for name in ("demo", "phenomena"):
        shutil.copytree(ROOT / f"results/{name}/records", tmp_path / f"results/{name}/records")
    (tmp_path / "results/adaptive").mkdir()
    (tmp_path / "results/adaptive/adaptive.json").write_text("{}")  # a table, no record
    words = ["report", "--records", str(tmp_path / "results"), "--out", str(tmp_path / "all")]
    assert main([*words, f"store={tmp_path / 'private'}"]) == 0
    text = (tmp_path / "all/index.html").read_text()
    assert re.findall(r'id="table-([^"]+)"', text) == ["demo", "phenomena"]
    assert "private" not in text
    assert len(pages(tmp_path / "all")) == 1 + 5 + 6
    assert "index.html" in capsys.readouterr().err


def test_the_command_takes_each_tables_experiments_from_a_folder_of_folders(tmp_path):
    for name in ("table_lfpm", "table_lfpm_labels"):
        shutil.copytree(ROOT / f"results/{name}/records", tmp_path / f"results/{name}/records")
    words = ["report", "--records", str(tmp_path / "results"), "--out", str(tmp_path / "all.html")]
    assert main(words) == 0
    text = (tmp_path / "all.html").read_text()
    # BadMerging's table and LFPM's have no folder of their own, only their experiment's.
    assert re.findall(r'id="table-([^"]+)"', text) == [
        "badmerging_table", "lfpm_paper_table", "table_lfpm", "table_lfpm_labels",
    ]  # fmt: skip
    labels = text[text.index('id="table-table_lfpm_labels"') :]
    ties = labels[labels.index("<tbody>") : labels.index("</tbody>")]
    assert re.search(r"ties</span></td><td[^>]*>(<a[^>]*>)?<span>ibvs", ties)


def test_an_unwritable_place_is_named(capsys):
    words = ["report", "demo", "--records", str(ROOT / "results")]
    assert main([*words, "--out", "/dev/null/x"]) == 2
    assert "--out=/dev/null/x cannot be written" in capsys.readouterr().err
    assert main([*words, "--out", "/dev/null/x.html"]) == 2
    assert "--out=/dev/null/x.html cannot be written" in capsys.readouterr().err


def test_a_folder_without_records_is_named(tmp_path, capsys):
    assert main(["report", "--records", str(tmp_path), "--out", str(tmp_path / "r")]) == 2
    assert f"no records of any table in {tmp_path}" in capsys.readouterr().err
    assert main(["report", "demoo", "--records", str(tmp_path)]) == 2
    assert "did you mean 'demo'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_hundred_cells_are_small_and_quick(tmp_path):
    known = find(ROOT / "results/table_lfpm")
    many = []
    for at in range(200):
        one = known[at % len(known)]
        config = {**one.config, "attack": {**one.config["attack"], "epochs": at}}
        many.append(replace(one, key=f"{at:032x}", config=config, seed=0))
    for one in many:
        write(tmp_path / "records", one)
    begun = time.process_time()
    words = ["table_lfpm", "--records", str(tmp_path), "--out", str(tmp_path / "report")]
    assert main(["report", *words, f"store={tmp_path / 'store'}"]) == 0
    assert time.process_time() - begun < 20
    files = [path for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert len(files) == 203
    assert sum(path.stat().st_size for path in files) < 10e6
