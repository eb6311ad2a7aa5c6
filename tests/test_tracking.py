"""What W&B is told: each run exactly, each content once, and never at a cell's expense."""

from __future__ import annotations

import json
import math
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark import api, config, records, tables
from benchmark.__main__ import main
from benchmark.artifacts import dump_compromise, dump_model
from benchmark.attacks.triggers import Patch
from benchmark.cell import Cell, cell_from
from benchmark.components import option
from benchmark.errors import BenchError
from benchmark.history import POINTS, History, thinned
from benchmark.pipeline import _record
from benchmark.records import Record
from benchmark.store import Store, key_of
from benchmark.tables.metrics import measures
from benchmark.tracking import material
from benchmark.tracking.courier import Courier, answer
from benchmark.tracking.curves import lines
from benchmark.tracking.entry import cell_entry, table_entry
from benchmark.tracking.push import push
from benchmark.tracking.sender import Sender
from benchmark.tracking.settings import Destination, Wandb, cell_words, experiment_of, tracker_from
from benchmark.training import finetune
from benchmark.types import Compromise, Expert, Model, Threat
from tests import tiny
from tests.made_records import CONTROLS, UNDEFENDED, demo, line, record
from tests.small import ATTACKS, ROOT, WORDS
from tests.wandb_log import Run, runs

OFFLINE = Destination("offline", "lfpm-bench", None)


# -- histories --


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(2, 12))
def test_a_thinned_curve_keeps_its_ends_and_its_order(values, most):
    points = list(enumerate(map(float, values)))
    kept = thinned(points, most)
    assert len(kept) == min(len(points), most)
    assert kept == sorted(set(kept))
    assert set(kept) <= set(points)
    assert kept[:1] == points[:1]
    assert kept[-1:] == points[-1:]


def test_a_second_descent_is_a_curve_of_its_own():
    history = History()
    for turn in (1.0, 5.0):
        for step in range(2):
            history.note(step, {"loss": torch.tensor(turn + step, requires_grad=True)})
    history.note(2, {"loss": math.nan, "reached": 1 / 3})
    assert history.plain() == {
        "loss": [[0, 1.0], [1, 2.0]],
        "loss_2": [[0, 5.0], [1, 6.0], [2, None]],
        "reached": [[2, 0.3333333]],
    }
    json.dumps(history.plain(), allow_nan=False)


def test_watching_changes_nothing_and_sees_every_step():
    ctx, history = tiny.context(granted=(tiny.TRAIN,)), History()
    data = ctx.images("a", tiny.TRAIN)
    images, labels = data.images, data.labels
    assert labels is not None

    def trained(**watching):
        given = (tiny.encoder(), tiny.base(), ctx.heads["a"], images, labels, tiny.RECIPE)
        return finetune(*given, ctx.rng("order"), **watching)

    assert tiny.equal(trained(), trained(watch=history.note))
    losses = history.plain()["loss"]
    assert [step for step, _ in losses] == list(range(tiny.RECIPE.steps(len(data.images))))
    assert losses[-1][1] != losses[0][1]
    assert len(losses) <= POINTS


# -- what a run holds --

TRIALS = [
    {"scale": 0.0, "reached": None, "agreement": 1.0},
    {"scale": 0.5, "reached": 0.2, "agreement": 0.9},
]


def test_every_section_has_rows_on_its_own_axis():
    info = {"model": {"steps": 2, "accuracy": [[0, 0.5], [2, 0.75]], "words": ["ab", "cd"]}}
    one = record("ft", info=info, curve=line((0.0, 80, 95), (1.0, 78, 10)))
    curves = {
        "experts": {"digits": [[0, 2.0], [1, 1.0]], "signs": [[0, 3.0], [1, None]]},
        "defense": {"loss": [[0, 1.5]], "reached": [[0, 0.25]]},
    }
    assert lines(one, curves) == [
        {"experts/step": 0, "experts/digits": 2.0, "experts/signs": 3.0},
        {"experts/step": 1, "experts/digits": 1.0},
        {"defense/step": 0, "defense/loss": 1.5, "defense/reached": 0.25},
        {"selection/at": 0, "selection/accuracy": 0.5},
        {"selection/at": 2, "selection/accuracy": 0.75},
        {"line/scale": 0.0, "line/ca": 80.0, "line/asr": 95.0, "line/target_recall": 90.0},
        {"line/scale": 1.0, "line/ca": 78.0, "line/asr": 10.0, "line/target_recall": 90.0},
    ]


def test_lfpms_trials_are_a_curve_over_lambda():
    info = {"model": {"lambda_a": 0.5, "selection": {"met": True, "trials": TRIALS}}}
    assert lines(record("lfpm", info=info), {}) == [
        {"selection/at": 0.0, "selection/agreement": 1.0},
        {"selection/at": 0.5, "selection/reached": 0.2, "selection/agreement": 0.9},
    ]


def test_a_run_is_its_cell_with_every_metric_and_its_interval():
    one = record("ft", info={"model": {"passes": 5000}})
    entry = cell_entry(one, {}, "table_x")
    assert (entry.id, entry.group, entry.kind, entry.failed) == (one.key, "table_x", "cell", False)
    assert entry.name == "badmerging_on/task_arithmetic/ft seed 0"
    assert set(entry.tags) == {"mini_6", "badmerging_on", "task_arithmetic", "ft", "done"}
    assert one.config.items() <= entry.config.items()
    for name, measure in measures(one).items():
        ends = [entry.summary.get(f"{name}{end}") for end in ("", "_low", "_high")]
        assert ends == ([measure.value, measure.low, measure.high] if measure else [None] * 3)
    assert {"asr", "asr_clean_merge", "asr_did", "asr_single_high"} <= entry.summary.keys()
    assert (entry.summary["ca/digits"], entry.summary["cost/passes"]) == (80.0, 5000)
    models = {row[0]: row for row in entry.grids["models"].rows}
    assert models.keys() == {"this cell", *CONTROLS}
    assert models["attacker_single"][4:7] == [100.0, 100, 100]
    assert len(entry.grids["tasks"].rows) == 2 * len(models)
    assert cell_entry(one, {}, None).group == "mini_6"


@pytest.mark.parametrize("status", ["failed", "skipped", "not_implanted"])
def test_a_cell_without_numbers_says_why(status):
    entry = cell_entry(record(status=status, reason="no memory"), {}, None)
    assert entry.summary == {"status": status, "reason": "no memory"}
    assert not entry.grids
    assert entry.notes.endswith(f"{status}: no memory")
    assert entry.failed == (status == "failed")


def test_a_failed_cell_sends_no_steps_since_it_may_be_tried_again():
    curves = {"experts": {"digits": [[0, 2.0]]}}
    assert not cell_entry(record(status="failed", reason="?"), curves, None).rows
    assert cell_entry(record(status="not_implanted", reason="?"), curves, None).rows


def test_a_table_is_a_run_with_numbers_that_sort():
    table = tables.make("demo", demo()[:3])
    entry = table_entry(table, ["seed=0"], None)
    grid = entry.grids["table"]
    assert all(len(row) == len(grid.columns) for row in grid.rows)
    assert len(set(grid.columns)) == len(grid.columns)
    by_defense = {row[0]: dict(zip(grid.columns, row, strict=True)) for row in grid.rows}
    (asr,) = [name for name in grid.columns if name.startswith("ASR") and name.endswith("↓")]
    assert [by_defense[name][asr] for name in ("none", "lfpm")] == [95.0, 8.0]
    low, high = (by_defense["lfpm"][f"{asr} {end}"] for end in ("low", "high"))
    assert low < 8.0 < high
    assert entry.pages["page"] == tables.render(table, "html")
    assert entry.id != table_entry(table, ["seed=1"], None).id
    assert (entry.group, entry.kind, entry.summary["rows"]) == ("demo", "table", len(grid.rows))


# -- where it goes --


def settings(**values) -> Wandb:
    tracker = tracker_from({**option("tracker", "wandb"), **values})
    assert isinstance(tracker, Wandb)
    return tracker


@pytest.fixture(autouse=True)
def _no_account(monkeypatch, tmp_path_factory):
    """No variable of the person who tests, and no file in their home."""
    monkeypatch.delenv("LFPM_BENCH_OFFLINE", raising=False)
    for name in ("MODE", "PROJECT", "ENTITY", "BASE_URL", "API_KEY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    home = tmp_path_factory.mktemp("home")
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))


def test_offline_is_the_default_and_values_come_before_the_environment(monkeypatch):
    assert settings().destination() == OFFLINE
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "lab")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert settings().destination() == Destination("disabled", "theirs", "lab")
    monkeypatch.setenv("LFPM_BENCH_OFFLINE", "1")  # as --offline sets it
    assert settings(mode="online").destination().mode == "offline"
    chosen = settings(mode="offline", project="mine").destination()
    assert (chosen.mode, chosen.project, chosen.name) == ("offline", "mine", "offline lab/mine")


def test_what_cannot_work_is_said_before_anything_is_computed(monkeypatch, tmp_path):
    with pytest.raises(BenchError, match=r"account: run `wandb login` or set WANDB_API_KEY"):
        settings(mode="online").destination()
    monkeypatch.setenv("WANDB_MODE", "on")
    with pytest.raises(BenchError, match="WANDB_MODE=on is not valid"):
        settings().destination()
    monkeypatch.setattr("benchmark.tracking.settings.find_spec", lambda name: None)
    opened = settings(mode="offline").opened(Store(tmp_path), [])
    with pytest.raises(BenchError, match=r"pip install 'lfpm-bench\[wandb\]'"), opened:
        raise AssertionError("it was opened")


def test_the_tracker_is_no_part_of_a_cell(tmp_path):
    words = ["-m", "defense=none,lfpm", f"store={tmp_path}"]
    plain, shown = config.plan(words), config.plan([*words, "tracker=wandb", "tracker.group=x"])
    assert plain is not None
    assert shown is not None
    assert plain.configs == shown.configs
    assert [plan.runtime["tracker"].get("group") for plan in (plain, shown)] == [None, "x"]


def test_groups_are_named_after_experiments():
    words = [
        "-m",
        "experiment=demo",
        "seed=0,1",
        "tracker=wandb",
        "launcher.processes=1",
        "store=s",
    ]
    assert experiment_of(words) == "demo"
    assert cell_words(words) == ["seed=0,1"]
    assert experiment_of(["experiment=null"]) is None


# -- each content once --


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """Run ids in the order in which they are written; nothing is."""
    ids: list[str] = []

    def write(entry, pictures, to, root):
        ids.append(entry.id)
        return f"{to.name} {len(ids)}"

    monkeypatch.setattr("benchmark.tracking.wandb_run.write_run", write)
    return ids


def test_equal_content_is_sent_once_and_other_content_again(written, tmp_path):
    one, to = record("ft"), Sender(tmp_path, OFFLINE, None)
    states = [
        to.cell(one).state,
        to.cell(one).state,
        Sender(tmp_path, OFFLINE, "g").cell(one).state,
    ]
    assert states == ["sent", "known", "known"]
    assert to.cell(replace(one, status="failed", main=None)).state == "sent"
    elsewhere = replace(OFFLINE, project="other")
    assert Sender(tmp_path, elsewhere, None).cell(one).state == "sent"
    assert Sender(tmp_path, OFFLINE, None, again=True).cell(one).place == "offline lfpm-bench 4"
    table = tables.make("demo", demo()[:3])
    assert [to.table(table, []).state, to.table(table, []).state] == ["sent", "known"]
    assert to.table(tables.make("demo", demo()[:2]), []).state == "sent"
    assert len(written) == 6


DEMO = ["seed=0,1,2"]  # the words that results/demo was made with


def test_an_experiment_is_sent_with_its_table_which_a_run_sends_too(written, tmp_path):
    made = tables.find(ROOT / "results/demo")
    for one in made:
        records.write(tmp_path / "records", one)
    words = ["demo", *DEMO, "tracker.mode=offline", f"store={tmp_path}"]
    code, text = push(words, None)
    names = [one["name"] for one in json.loads(text)["runs"]]
    assert (code, len(names)) == (0, len(made) + 1)
    assert names[-1] == "table demo seed=0,1,2"
    assert set(written[:-1]) == {one.key for one in made}
    table = ("table", ("demo", cell_words(["-m", "experiment=demo", *DEMO, "tracker=wandb"])))
    assert answer(Sender(tmp_path, OFFLINE, "demo"), table).state == "known"
    code, text = push(words[1:], None)  # every record of the store, wherever it is from
    assert json.loads(text)["known"] == len(made)


def test_a_wandb_error_is_an_answer_and_the_next_time_it_is_sent(written, monkeypatch, tmp_path):
    def broken(*args):
        raise ConnectionError("no route\nto the server")

    to = Sender(tmp_path, OFFLINE, None)
    with monkeypatch.context() as patched:
        patched.setattr("benchmark.tracking.wandb_run.write_run", broken)
        answer = to.cell(record())
    assert (answer.state, answer.reason) == ("failed", "ConnectionError: no route")
    assert to.cell(record()).state == "sent"


def test_a_damaged_ledger_costs_one_more_run(written, tmp_path):
    to = Sender(tmp_path, OFFLINE, None)
    to.cell(record())
    (file,) = (tmp_path / "wandb" / "ledger").glob("*.json")
    file.write_text('["half')
    assert [to.cell(record()).state, to.cell(record()).state] == ["sent", "known"]


def test_several_senders_at_once_send_once(written, tmp_path):
    found: list[str] = []

    def work():
        sent = [Sender(tmp_path, OFFLINE, None).cell(one) for one in demo()]
        found.extend(one.state for one in sent)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == sorted(one.key for one in demo())
    assert (found.count("sent"), found.count("known")) == (4, 12)


def test_a_process_that_dies_loses_no_record_and_stops_nobody(tmp_path, capsys):
    one = record()
    records.write(tmp_path / "records", one)
    with Courier(tmp_path, OFFLINE, None, True) as courier:
        courier.process.kill()
        courier.cell(one.key)
        courier.cell("never written")
    told = capsys.readouterr().err
    assert "W&B: 2 not sent: the process that sends died (exit code -9)" in told
    assert "`lfpm-bench wandb push` sends what is missing" in told


# -- the real thing, read back from disk --

HISTORY = {"loss": [[0, 2.5], [1, 1.25]]}


def words_of(store: Path) -> list[str]:
    return ["attack=badnets", "merge=ties", "defense=lfpm", *WORDS, *ATTACKS, f"store={store}"]


def planned(store: Path) -> Cell:
    plan = config.plan(words_of(store))
    assert plan is not None
    return cell_from(plan.configs[0])


def fill(cell: Cell, store: Store) -> Record:
    """The stages and the record of a cell, made up: noise, a white patch, two prompts."""
    side, rng = cell.backbone.image_size, torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, side, side), generator=rng).byte()
    weights = {"weight": torch.zeros(2)}
    for task in ("signs", "flags"):
        data = {"images": images, "labels": torch.zeros(8).long()}
        store.save("data", key_of(*cell.data(task, "test")), (data, {}), {})
    for task in ("flags", "faces"):
        key = key_of(*cell.expert(task))
        store.save("expert", key, (weights, {}), {}, {"history": HISTORY})
    threat = Threat(Patch(torch.ones(3, 4, 4), 0, 0), "signs", 1, ("signs",))
    attack = Compromise({"signs": Expert("signs", weights, "k")}, (threat,))
    store.save("attack", key_of(*cell.compromise()), dump_compromise(attack), {})
    mask = torch.zeros(2, 1, side, side)
    mask[..., :4, :4] = 1
    prompts = {f"prompt/{t}": mask.expand(-1, 3, -1, -1) * 0.5 for t in ("signs", "flags")}
    masks = {f"mask/{task}": mask.clone() for task in ("signs", "flags")}
    model = Model(weights, artifacts={**prompts, **masks})
    made = {"history": {"loss": [[0, 0.75]], "reached": [[0, 0.5]]}}
    store.save("defend", key_of(*cell.defended("attacked")), dump_model(model), {}, made)
    info = {"model": {"selection": {"met": True, "trials": TRIALS}}}
    curve = line((0.0, 80, 95), (1.0, 78, 10))
    done = {"main": UNDEFENDED, "controls": CONTROLS, "info": info, "curve": curve}
    one = _record(cell, status="done", reason=None, **done)
    records.write(store.root / "records", one)
    return one


def test_a_cell_run_from_python_is_shown_as_well(monkeypatch, tmp_path):
    told: list[str] = []

    @contextmanager
    def opened(self, store, words):
        yield lambda record: told.append(record.key)

    monkeypatch.setattr(Wandb, "opened", opened)
    one = fill(planned(tmp_path), Store(tmp_path))
    assert api.run([*words_of(tmp_path), "tracker=wandb"]).key == one.key
    assert told == [one.key]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory) -> tuple[Path, Record, list[tuple[int, dict]]]:
    """A store, its record, and what two pushes in a row answered."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DATA", "CACHE", "CONFIG"):
            patch.setenv(f"WANDB_{name}_DIR", str(tmp_path_factory.mktemp(name.lower())))
        one = fill(planned(root), Store(root))
        words = ["tracker.mode=offline", f"store={root}"]
        answers = [push(words, None, group="mine") for _ in range(2)]
    return root, one, [(code, json.loads(text)) for code, text in answers]


@pytest.fixture
def run(pushed) -> Run:
    root, one, _ = pushed
    found = runs(root)
    assert found.keys() == {one.key}
    return found[one.key]


def test_pushing_again_writes_nothing(pushed):
    root, one, answers = pushed
    assert [code for code, _ in answers] == [0, 0]
    assert [body.get("sent", 0) for _, body in answers] == [1, 0]
    assert answers[1][1]["known"] == 1
    (again,) = answers[1][1]["runs"]
    assert (again["name"], again["state"]) == ("badnets/ties/lfpm seed 0", "known")
    assert again["place"] == str(runs(root)[one.key].folder)


def test_the_offline_run_holds_the_cell(run, pushed):
    _, one, _ = pushed
    about = run.about
    assert (about.run_id, about.run_group, about.job_type) == (one.key, "mine", "cell")
    assert (about.project, about.display_name) == ("lfpm-bench", "badnets/ties/lfpm seed 0")
    assert set(about.tags) == {"mini", "badnets", "ties", "lfpm", "done"}
    plain = json.loads(records.to_json(one))
    assert {name: run.config[name] for name in plain["config"]} == plain["config"]
    assert run.config["names"] == plain["names"]
    assert run.exit_code == 0


def test_the_offline_run_holds_the_numbers(run, pushed):
    _, one, _ = pushed
    entry = cell_entry(one, material.curves(one, Store(pushed[0])), "mine")
    assert {name: run.summary[name] for name in entry.summary} == entry.summary
    for name, grid in entry.grids.items():
        assert run.table(name)["columns"] == list(grid.columns)
        assert run.table(name)["data"] == [list(row) for row in grid.rows]


def test_the_offline_run_holds_the_curves_on_their_axes(run):
    rows = [{k: v for k, v in row.items() if "/" in k} for row in run.history]
    assert rows[:4] == [
        {"experts/step": 0, "experts/flags": 2.5, "experts/faces": 2.5},
        {"experts/step": 1, "experts/flags": 1.25, "experts/faces": 1.25},
        {"defense/step": 0, "defense/loss": 0.75, "defense/reached": 0.5},
        {"selection/at": 0, "selection/agreement": 1},
    ]
    assert [row["line/asr"] for row in rows if "line/asr" in row] == [95, 10]
    assert run.axes["defense/*"] == "defense/step"
    assert run.axes["line/*"] == "line/scale"
    assert [row["_step"] for row in run.history] == list(range(len(rows)))


def test_the_offline_run_holds_the_pictures(run):
    from PIL import Image

    shown = {name: run.folder / "files" / path for name, path in run.pictures()}
    assert shown.keys() == {"trigger", "prompts"}
    pixels = np.asarray(Image.open(shown["trigger"]).convert("RGB"))
    side = len(pixels) // 3
    assert pixels.shape == (3 * side, 6 * side, 3)
    clean, triggered, _ = pixels.reshape(3, side, 6 * side, 3)
    assert (triggered[:4, :4] == 255).all()  # the patch, on the first image
    assert not (clean != triggered)[4:].any()
    (caption,) = run.summary["prompts"]["captions"]
    assert caption.startswith("signs, seed 0: an image with the true trigger")
    assert "the 2 prompts mined for this task alone" in caption


def test_a_newer_run_takes_the_place_of_an_older_one(pushed):
    root, one, _ = pushed
    before = runs(root)[one.key].folder
    words = ["tracker.mode=offline", f"store={root}"]
    code, _ = push(words, None, group="other", again=True)
    after = runs(root)[one.key]
    assert code == 0
    assert after.folder != before
    assert not before.exists()
    assert after.about.run_group == "other"


def test_a_sweep_with_its_tracker_on_is_there_offline_with_its_table(tmp_path, monkeypatch, capsys):
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    root = tmp_path / "store"
    words = ["-m", "experiment=attacks_defenses", *words_of(root)]
    plan = config.plan(words)
    assert plan is not None
    (cell,) = map(cell_from, plan.configs)
    one = fill(cell, Store(root))
    assert main(["run", *words, "tracker=wandb"]) == 0
    assert (
        "W&B: 2 runs sent (offline lfpm-bench), 0 were there, 0 not sent" in capsys.readouterr().err
    )
    found = runs(root)
    shown = found.pop(one.key)
    assert (shown.about.job_type, shown.about.run_group) == ("cell", "attacks_defenses")
    plain = json.loads(records.to_json(one))
    assert {name: shown.config[name] for name in plain["config"]} == plain["config"]
    entry = cell_entry(one, material.curves(one, Store(root)), None)
    assert {name: shown.summary[name] for name in entry.summary} == entry.summary
    (table,) = found.values()
    assert (table.about.job_type, table.about.run_group) == ("table", "attacks_defenses")
    assert table.about.display_name.startswith("table attacks_defenses attack=badnets merge=ties")
    made = tables.make("attacks_defenses", [one])
    sent = table_entry(made, cell_words(words), None)
    (name,) = sent.grids
    assert table.table(name)["columns"] == list(sent.grids[name].columns)
    assert table.table(name)["data"] == [list(row) for row in sent.grids[name].rows]


def test_bad_words_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("LFPM_BENCH_OFFLINE", "1")
    with pytest.raises(BenchError, match="holds no record"):
        push([], tmp_path)
    with pytest.raises(BenchError, match="give one of them"):
        push(["demo"], tmp_path)
    with pytest.raises(BenchError, match=r"unknown key tracker\.projekt"):
        push(["tracker.projekt=x"], None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(BenchError, match="disabled: unset WANDB_MODE"):
        push([], None)
