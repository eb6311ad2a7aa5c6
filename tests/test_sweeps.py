"""Sweeps survive: killed at random, shared by two runs, edited under way; and say how far they are.

The stages are made up (`tests.pretend`), everything around them is real; `make test-sweeps` does
the same with a thousand cells.
"""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark import components, config, failures, plans, records
from benchmark.__main__ import main
from benchmark.cell import cell_from
from benchmark.claims import holders
from benchmark.components import CONF
from benchmark.errors import BenchError
from benchmark.store import Store
from tests import pretend
from tests.small import ROOT, WORDS, bench

ONE = ["-m", "attack=none", "merge=task_arithmetic", "defense=none", *WORDS, "suite.curve=[]"]
ONE += ["backbone.weights=null"]  # made up like the rest: no process has to hash a file


def sweep(cells: int) -> list[str]:
    """Words of so many cells: two seeds, which share nothing but images, and many scales."""
    scales = ",".join(f"{0.001 * (n + 1):.3f}" for n in range(cells // 2))
    return [*ONE, f"merge.scale={scales}", "seed=0,1"]


def launch(words: list[str], store: Path) -> subprocess.Popen:
    """Start a run in a process of its own."""
    code = "import sys; from tests import pretend; pretend.run(sys.argv[1:])"
    # Not -m: each worker would run the whole module of that name again.
    command = [sys.executable, "-W", "ignore", "-c", code, *words, f"store={store}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def identities(store: Path) -> dict[str, dict]:
    found = records.read_all((store / "records").glob("*.json"))
    return {record.key: record.identity_part() for record in found}


def kill(store: Path, process: subprocess.Popen, rng: random.Random) -> None:
    """Kill the run or, as often, a worker (of any run) that holds a claim."""
    workers = [one.pid for one in holders(store / "claims") if one.alive]
    victim = rng.choice([process.pid, rng.choice(workers or [process.pid])])
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.kill(victim, signal.SIGKILL)
    if victim == process.pid:
        process.wait()


def _computed(store: Path) -> int:
    return sum(1 for _ in (store / "computed").glob("*"))


def survive(words: list[str], store: Path, jobs: int, kills: int) -> None:
    """Two runs at once on a store until both end by themselves, hit at random on the way."""
    rng = random.Random(7)
    both = [launch(words, store) for _ in range(2)]
    try:
        for share in sorted(rng.random() for _ in range(kills)):
            while _computed(store) < share * jobs and any(one.poll() is None for one in both):
                time.sleep(0.1)
            number = rng.randrange(2)
            kill(store, both[number], rng)
            both = [one if one.poll() is None else launch(words, store) for one in both]
        for one in both:
            one.wait()
    finally:
        for one in both:
            one.kill()
            one.wait()


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    """A store after an undisturbed sweep of 60 cells."""
    store = tmp_path_factory.mktemp("calm")
    summary = pretend.run([*sweep(60), "pretend.processes=0", f"store={store}"])
    assert (summary.asked, summary.computed, summary.failed) == (60, 60, [])
    return store


def check_survived(words: list[str], store: Path, calm: Path, kills: int) -> None:
    """Nothing lost, nothing computed twice, nothing left behind; again: nothing to do."""
    # A worker that was killed has cost its run that cell: the same command tries it again.
    summary = pretend.run([*words, f"store={store}"])
    assert summary.failed == []
    assert identities(store) == identities(calm)
    counts = [len(one.read_text().splitlines()) for one in (store / "computed").iterdir()]
    assert max(counts) == 1  # a worker killed while it noted its result leaves an empty note
    assert _computed(calm) - kills <= sum(counts) <= _computed(calm)
    assert [one for one in holders(store / "claims") if one.alive] == []


def frozen(calm: Path, store: Path) -> list[str]:
    """Put the plan of the calm sweep into another store; the words that run it there."""
    shutil.copytree(calm / "plans", store / "plans")
    (plan,) = (store / "plans").iterdir()
    return ["--plan", plan.name[:8]]


def test_two_runs_with_kills_lose_nothing_and_compute_nothing_twice(calm, tmp_path):
    words = frozen(calm, tmp_path)
    gpus = 'pretend.gpus=["4","GPU-b"]'
    survive([*words, "pretend.seconds=0.01", gpus], tmp_path, _computed(calm), kills=2)
    check_survived([*words, gpus], tmp_path, calm, kills=2)
    lines = [line for one in (tmp_path / "computed").iterdir() for line in one.read_text().split()]
    assert set(lines[1::2]) == {"4", "GPU-b"}, "each process sees one GPU"


def test_a_finished_sweep_launches_nothing(calm):
    before = {path: path.stat().st_mtime_ns for path in calm.rglob("*") if path.is_file()}
    summary = pretend.run([*sweep(60), 'pretend.dies=""', f"store={calm}"])
    assert (summary.asked, len(summary.records), summary.computed) == (60, 60, 0)
    after = {path: path.stat().st_mtime_ns for path in calm.rglob("*") if path.is_file()}
    assert after == before


def statuses(summary) -> list[str]:
    return [record.status for record in summary.records]


def test_a_hard_death_costs_one_cell_and_the_flags_say_what_is_tried_again(tmp_path, capsys):
    words = [*ONE, f"store={tmp_path}"]
    dying = 'pretend.dies="evaluate main none/task_arithmetic/none seed 1"'
    summary = pretend.run([*words, "seed=0,1,2", dying])
    assert statuses(summary) == ["done", "failed", "done"]
    reason = summary.records[1].reason or ""
    assert reason.endswith("its process died (signal SIGKILL: out of memory?)")
    (first,) = failures.ledger(Store(tmp_path))
    assert first.label == "evaluate main none/task_arithmetic/none seed 1"
    more = [*words, "seed=0,1,2,3"]
    assert pretend.run([*words, "seed=0,1,2", "--keep-failed"]).computed == 0
    # Only the failed one: seed 3 was never run, and is not now.
    again = pretend.run([*more, "--retry-failed", dying.replace("dies", "raises")])
    assert (again.asked, again.computed, statuses(again)) == (4, 1, ["done", "failed", "done"])
    assert [one.reason for one in failures.ledger(Store(tmp_path))][1:] == ["it was told to"]
    assert (again.records[1].reason or "").endswith("seed 1: it was told to")
    capsys.readouterr()
    assert main(["failures", f"store={tmp_path}"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 2
    assert "seed 1: it was told to (log " in shown[1]
    kept = pretend.run([*more, "--keep-failed"])
    assert (kept.computed, statuses(kept)) == (1, ["done", "failed", "done", "done"])
    last = pretend.run(more)
    assert (last.computed, statuses(last)) == (1, ["done"] * 4)
    assert len(failures.ledger(Store(tmp_path))) == 2


def test_status_tells_running_from_stale(tmp_path, capsys):
    def told() -> dict:
        assert main(["status", plan.name[:8], "--json", f"store={tmp_path}"]) == 0
        return json.loads(capsys.readouterr().out)

    words = [*ONE, "seed=0,1"]
    process = launch([*words, "pretend.seconds=60", "pretend.processes=1"], tmp_path)
    while not holders(tmp_path / "claims"):
        time.sleep(0.05)
    (plan,) = (tmp_path / "plans").iterdir()
    report = told()
    assert (report["counts"]["running"], report["counts"]["missing"]) == (1, 1)
    (cell,) = (one for one in report["cells"] if one["status"] == "running")
    assert 0 <= cell["age"] < 60
    assert cell["log"].startswith(str(tmp_path / "logs"))
    (holder,) = holders(tmp_path / "claims")
    assert f"{holder.label}, process {holder.pid} on {holder.host}" == cell["reason"]
    process.kill()
    process.wait()
    while any(one.alive for one in holders(tmp_path / "claims")):
        time.sleep(0.05)  # the worker leaves when its parent is gone
    report = told()
    assert (report["counts"]["stale"], report["counts"]["missing"]) == (1, 1)
    assert "is gone; run it again to go on" in json.dumps(report["cells"])


def test_an_edited_yaml_changes_the_next_plan_and_no_earlier_one(tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(components, "CONF", conf)
    monkeypatch.setattr(config, "CONF", conf)
    words, said = [*ONE, "seed=0", f"store={tmp_path / 's'}"], []
    first = config.plan(words, lambda *ids: said.append(ids))
    assert first is not None
    keys = [cell_from(one).key for one in first.configs]
    other = conf / "merge/ties.yaml"
    other.write_text(other.read_text() + "# one line more\n")
    same = config.plan(words, lambda *ids: said.append(ids))
    assert same is not None
    assert (same.id != first.id, same.configs, said) == (True, first.configs, [])
    chosen = conf / "merge/task_arithmetic.yaml"
    text = chosen.read_text()
    chosen.write_text(text.replace("scale: 0.3", "scale: 0.25"))
    assert chosen.read_text() != text
    changed = config.plan(words, lambda *ids: said.append(ids))
    assert changed is not None
    assert said == [(same.id, changed.id)]
    assert not {cell_from(one).key for one in changed.configs} & set(keys)
    shutil.rmtree(conf)
    frozen = plans.find(tmp_path / "s", first.id)
    assert [cell_from(one).key for one in frozen.configs] == keys
    with pytest.raises(BenchError, match=r"--plan=zz is no plan of .*there are: "):
        plans.find(tmp_path / "s", "zz")


def test_a_dry_run_says_what_is_there_and_what_is_not_and_computes_nothing(calm, tmp_path, capsys):
    store, empty = tmp_path / "s", tmp_path / "empty"
    jobs = len(list((calm / "computed").iterdir()))
    shutil.copytree(calm, store)
    for path in sorted((store / "records").iterdir())[:2]:
        record = records.read(path)
        assert record.main is not None
        Store(store).path("evaluation", record.main.key).unlink()
        path.unlink()
    left = identities(store)
    words = ["run", "--dry-run", *frozen(calm, empty)]
    assert main([*words, f"store={store}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("60 cells: 58 done, 2 missing")
    assert lines[1] == "to compute: 2 cells, 2 jobs"
    assert lines[2].split()[:2] == ["evaluation", "2"]
    assert lines[3].startswith("measured before: ")
    assert len(lines) == 4
    assert identities(store) == left
    assert main([*words, f"store={empty}"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert re.match(rf"never measured here, {jobs} jobs, by arithmetic: .*GPU-hours.*GiB", told)
    assert {one.name for one in empty.iterdir()} == {"plans"}


def test_our_flags_of_run_are_checked(tmp_path, capsys):
    for words, sentence in (
        (["--retry-failed", "--keep-failed"], "not allowed with argument"),
        (["--plan", "abc", "seed=1"], "--plan=abc has its own words: leave out seed=1"),
        (["--plan", "abc"], "--plan=abc is no plan of"),
    ):
        assert main(["run", *words, f"store={tmp_path}"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert sentence in said


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_thousand_cells_survive_ten_kills(tmp_path, monkeypatch):
    words, store, calm = sweep(1000), tmp_path / "store", tmp_path / "calm"
    monkeypatch.setenv("LFPM_BENCH_STORE", str(calm))
    pretend.run([*words, "pretend.processes=0"])
    assert len(identities(calm)) == 1000
    shared = [*frozen(calm, store), "pretend.seconds=0.02"]
    survive(shared, store, _computed(calm), kills=10)
    check_survived(shared, store, calm, kills=10)
    before = os.times()
    again = bench("run", *words, store=calm)
    after = os.times()
    assert "1000 of 1000 cells done, 0 computed now" in again.stderr
    assert "[1/" not in again.stderr, "no job was started"
    user, system = after.children_user, after.children_system
    # Of processor time, so that a busy machine does not count.
    assert user + system - before.children_user - before.children_system < 5
