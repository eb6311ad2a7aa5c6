"""The benchmark of speed: that it measures everything, and that its arithmetic is right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny
from tests.bench import jobs, run_ours
from tests.bench.__main__ import LATE, OUT, Bench, renewed, reported, summary
from tests.bench.report import as_markdown, compared, goals
from tests.bench.shapes import SMALL, VIT_B32, Tower, written
from tests.bench.timing import PARTS, loaded

TASKS = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    return written(SMALL, TASKS, tmp_path_factory.mktemp("models"))


def test_the_tower_is_that_of_open_clip():
    assert VIT_B32.count() == 87_849_216
    toy = Tower(width=32, layers=1, patch=8, tokens=5, out=16)
    assert toy.shapes() == tiny.encoder().shapes


def test_experts_are_near_the_base(models):
    base, *experts = (load_file(path) for path in models)
    assert {name: tuple(value.shape) for name, value in base.items()} == SMALL.shapes()
    assert len(experts) == TASKS
    moved = torch.cat([(one["proj"] - base["proj"]).flatten() for one in experts])
    assert float(moved.std()) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("what", run_ours.RUNS)
def test_everything_of_ours_runs(what, models):
    parts = {job.part for job in jobs.JOBS if job.what == what}
    assert parts, f"{what} is measured by no job"
    part = "attention" if "attention" in parts else "block"
    base, *experts = (loaded(str(path), part) for path in models)
    before = tiny.copied(base), [tiny.copied(one) for one in experts]
    call = run_ours.RUNS[what](base, experts)
    call()
    assert tiny.equal(base, before[0])
    assert all(tiny.equal(*pair) for pair in zip(experts, before[1], strict=True))


def test_jobs_name_what_there_is():
    assert {job.what for job in jobs.JOBS} == set(run_ours.RUNS)
    assert {job.part for job in jobs.JOBS} <= set(PARTS)
    assert all(job.who[0] == jobs.OURS for job in jobs.JOBS)


def test_a_process_is_measured_and_a_failing_one_says_why(models, tmp_path):
    import sys
    import time

    pythons = {jobs.OURS: Path(sys.executable)}
    paths = [str(path) for path in models]
    bench = Bench(tmp_path, paths, 1, pythons, time.monotonic() + 100)
    (row,) = bench.rows(jobs.Job("task_arithmetic", "all", (jobs.OURS, "absent"), calls=2), 1)
    assert row["seconds"] > 0
    assert row["runs"] == 1
    assert row["extra_mib"] >= 0
    (row,) = bench.rows(jobs.Job("nonsense", "all", (jobs.OURS,)), 1)
    assert "nonsense" in row["failed"]
    bench.until = time.monotonic()
    (row,) = bench.rows(jobs.Job("copy", "all", (jobs.OURS,)), 1)
    assert row["failed"] == LATE


def row(what: str, part: str, who: str, seconds: float, models: float = 1.0) -> dict:
    numbers = {"seconds": seconds, "runs": 3, "extra_mib": 100 * models, "models": models}
    return {"what": what, "part": part, "who": who, **numbers}


def test_goals_are_judged_by_the_formulas():
    rows = [
        row("copy", "all", "ours", 8.0),
        row("task_arithmetic", "all", "ours", 10.0, models=1.1),
        row("simple_average", "all", "ours", 4.0, models=1.3),
        row("ties", "all", "ours", 2.0),
        row("ties", "all", "fusion_bench", 12.0, models=9.0),
        row("ties", "all", "mergekit", 7.0),
        row("iso_c", "block", "ours", 4.0),
        row("iso_c", "block", "fusion_bench", 2.0),
        {"what": "tsv_m", "part": "block", "who": "ours", "failed": LATE},
    ]
    found = {one["goal"]: one for one in goals(rows, tasks=8)}
    # 8 s move 16 models, so 10 models take 5 s at that rate.
    assert found["task_arithmetic: share of the copy bandwidth"]["value"] == pytest.approx(0.5)
    assert found["simple_average: share of the copy bandwidth"]["value"] == pytest.approx(1.25)
    assert found["task_arithmetic: extra memory, in models"]["met"] is True
    assert found["simple_average: extra memory, in models"]["met"] is False
    assert found["ties: times as fast as the faster peer"]["value"] == pytest.approx(3.5)
    assert found["ties: times as fast as the faster peer"]["met"] is False
    assert found["iso_c, one block: times as fast"]["value"] == pytest.approx(0.5)
    assert found["tsv_m, one block: times as fast"]["met"] is None
    pairs = {(one["what"], one["peer"]): one for one in compared(rows)}
    assert pairs["ties", "fusion_bench"]["memory"] == pytest.approx(9)
    assert pairs["iso_c", "fusion_bench"]["time"] == pytest.approx(0.5)  # a loss is shown


def test_medians_leave_warm_ups_out():
    told = [{"seconds": [9.0, 1.0, 2.0], "extra_bytes": 2**21, "model_bytes": 2**20, "torch": "x"}]
    found = summary(told, None)
    assert (found["seconds"], found["runs"], found["models"]) == (1.5, 2, 2.0)
    assert summary([], "broken") == {"failed": "broken"}


def test_the_page_shows_losses_and_what_failed():
    rows = [
        row("iso_c", "block", "ours", 4.0),
        row("iso_c", "block", "fusion_bench", 2.0),
        row("adamerging_step", "all", "ours", 4.0),
        {"what": "ties", "part": "all", "who": "mergekit", "failed": "MemoryError"},
        row("ties", "all", "ours", 1.0),
    ]
    setting = {
        "quick": False, "rounds": 3, "tasks": 8, "threads": 2, "parameters": 10, "minutes": 1.0,
        "machine": "m", "peers": [],
    }  # fmt: skip
    report = {
        "commit": None, "setting": setting, "goals": goals(rows, 8),
        "compared": compared(rows), "rows": rows,
    }  # fmt: skip
    page = as_markdown(json.loads(json.dumps(report)))
    assert "| iso_c | block | fusion_bench | 0.50 | 1.00 |" in page
    assert "| ties | all | mergekit | MemoryError | |" in page
    assert "0.500 s per task" in page
    assert "| iso_c, one block: times as fast | at least 2 | 0.50 | no |" in page


def test_the_committed_page_is_that_of_its_measurements():
    report = json.loads((OUT / "bench.json").read_text())
    assert report["goals"] == goals(report["rows"], report["setting"]["tasks"])
    assert report["compared"] == compared(report["rows"])
    assert (OUT / "bench.md").read_text() == as_markdown(report)


def test_some_merges_measured_again_take_the_place_of_their_rows():
    setting = {"tasks": 8, "threads": 2, "minutes": 30.0, "rounds": 3}
    old = [row("copy", "all", "ours", 1.0), row("ties", "all", "ours", 4.0)]
    peer = {"what": "ties", "part": "all", "who": "fusion_bench", "failed": LATE}
    before = {**reported([*old, peer], setting), "commit": "a" * 40, "dirty": False}
    new = [row("ties", "all", "ours", 2.0), row("ties", "all", "fusion_bench", 6.0)]
    found = renewed(before, new, {**setting, "minutes": 2.0, "rounds": 1})
    assert found["rows"] == [old[0], *new]
    assert [one["time"] for one in found["compared"]] == [3.0]
    assert (found["commit"], found["setting"]["minutes"]) == ("a" * 40, 30.0)
    (again,) = found["setting"]["again"]
    assert (again["merges"], again["minutes"]) == (["ties"], 2.0)
    with pytest.raises(SystemExit, match="threads differ from the report's"):
        renewed(before, new, {**setting, "threads": 1})
