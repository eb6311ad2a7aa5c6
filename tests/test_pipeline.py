"""The pipeline on a real, small suite: records, controls, resuming, failing, adding a method."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmark import records
from benchmark.records import Record
from benchmark.store import Store
from tests.small import ATTACKS, ROOT, WORDS, bench

SWEEP = ["-m", "attack=badnets", "merge=task_arithmetic,ties", "defense=none,scale_lambda"]


def read(store: Path) -> dict[str, Record]:
    found = records.read_all((store / "records").glob("*.json"))
    return {record.key: record for record in found}


def identity(store: Path) -> str:
    parts = {key: record.identity_part() for key, record in read(store).items()}
    return json.dumps(parts, sort_keys=True)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A store after a sweep of two merges and two defences under BadNets."""
    folder = tmp_path_factory.mktemp("store")
    done = bench("run", *SWEEP, *WORDS, *ATTACKS, store=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def experts(store, tmp_path) -> Path:
    """A store of one's own that has the contributors and the attack, and nothing after them."""
    own = tmp_path / "experts"
    left_out = ("merge", "defend", "evaluation", "curve", "records", "plans")
    shutil.copytree(store, own, ignore=shutil.ignore_patterns(*left_out))
    return own


def test_every_cell_has_a_record_with_counts_and_controls(store):
    found = read(store)
    assert len(found) == 4
    for record in found.values():
        assert record.status == "done"
        assert record.main is not None
        assert record.main.clean.keys() == {"signs", "flags", "faces"}
        totals = {task: count.total for task, count in record.main.clean.items()}
        assert totals == {"signs": 36, "flags": 24, "faces": 24}
        (threat,) = record.main.threats
        assert (threat.task, threat.target) == ("signs", 1)
        assert threat.asr.total + threat.target_recall.total == 36
        assert threat.misclassified.hits + threat.triggered_acc.hits == 36
        assert threat.flipped.keys() == {"flags", "faces"}
        assert record.controls.keys() == {
            "undefended", "pretrained", "clean_merge", "defended_clean_merge",
            "honest_single", "attacker_single", "without_attacker",
        }  # fmt: skip
        assert record.controls["attacker_single"].clean.keys() == {"signs"}
        assert record.provenance["commit"]
        assert record.provenance["seconds"]["evaluation"] > 0
        assert record.provenance["peak_memory_mib"]["evaluation"] > 0


def test_a_record_says_how_many_steps_a_second_its_defence_took():
    from benchmark.pipeline import _flat

    cost = {"defense": {"seconds": 4.0}, "evaluation": {"seconds": 1.0, "device": "cpu"}}
    assert _flat(cost, 58)["steps_per_s"] == 14.5
    assert "steps_per_s" not in _flat(cost, None)
    assert _flat(cost, None)["seconds"] == {"defense": 4.0, "evaluation": 1.0}


@pytest.mark.slow
def test_an_exported_model_is_right_as_often_as_its_record_says(store, tmp_path):
    """Loaded by open_clip alone, with heads made of the folder's own prompts."""
    import open_clip
    import torch
    from torch.nn.functional import normalize

    from benchmark.bench import Bench
    from benchmark.checkpoints.exporting import export_checkpoint
    from benchmark.recorded import record_cell

    record = next(one for one in read(store).values() if one.names["defense"] != "none")
    export_checkpoint([record.key, f"store={store}"], "defended", "open_clip", tmp_path / "out")
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    tokens = open_clip.get_tokenizer("ViT-B-32", context_length=16)
    cell, prompts = record_cell(record), json.loads((tmp_path / "out/tasks.json").read_text())
    for task, words in prompts["tasks"].items():
        images, labels = Bench(cell, Store(store)).split(task, "test")
        count = record.main.clean[task]
        with torch.no_grad():
            pixels = preprocess.transforms[-1](images[: count.total] / 255)
            each = [[t.replace("{}", c) for t in words["templates"]] for c in words["classnames"]]
            heads = [normalize(net.eval().encode_text(tokens(one)), dim=-1).mean(0) for one in each]
            found = (net.encode_image(pixels) @ normalize(torch.stack(heads), dim=-1).T).argmax(1)
        assert int((found == labels[: count.total]).sum()) == count.hits


def test_an_undefended_cell_is_its_own_control(store):
    for record in read(store).values():
        if record.names["defense"] == "none":
            assert record.main == record.controls["undefended"]
            assert record.controls["clean_merge"] == record.controls["defended_clean_merge"]


def test_a_defended_cell_has_its_line_and_both_ends_are_the_models(store):
    import numpy as np

    for record in read(store).values():
        if record.names["defense"] == "none":
            assert record.curve == ()
            continue
        assert [point.scale for point in record.curve] == [0.0, 1.0, 1.5]
        assert {count.total for p in record.curve for count in p.evaluation.clean.values()} == {20}
        line = Store(store).load("curve", record.curve[0].evaluation.key)
        assert line is not None
        assert record.main is not None
        for scale, whole in ((0.0, record.controls["undefended"]), (1.0, record.main)):
            found = Store(store).load("evaluation", whole.key)
            assert found is not None
            for name in ("clean/signs", "clean/flags", "0/asr", "0/correct"):
                ends = found[0][name], line[0][f"{scale}/{name}"]
                bits = [np.unpackbits(packed.numpy())[:20] for packed in ends]
                assert (bits[0] == bits[1]).all(), (scale, name)


def test_development_measures_dev_images_beyond_the_granted_ones(store):
    words = ["attack=badnets", "merge=task_arithmetic", "defense=scale_lambda"]
    done = bench("run", *words, "suite.evaluate=dev", *WORDS, *ATTACKS, store=store)
    assert done.returncode == 0, done.stderr
    dev = {key: one for key, one in read(store).items() if one.config["suite"]["evaluate"] == "dev"}
    (record,) = dev.values()
    evaluations = [record.main, *(point.evaluation for point in record.curve)]
    # 24 dev images, of which methods are granted 12.
    totals = {one.total for each in evaluations if each for one in each.clean.values()}
    assert (len(evaluations), totals) == (4, {12})
    for key in dev:  # the other tests count the results
        (store / "records" / f"{key}.json").unlink()


def test_controls_are_shared_and_hits_are_kept(store):
    found = read(store).values()
    assert len({record.controls["pretrained"].key for record in found}) == 1
    import numpy as np

    for record in found:
        assert record.main is not None
        artifact = Store(store).load("evaluation", record.main.key)
        assert artifact is not None
        bits = np.unpackbits(artifact[0]["clean/flags"].numpy())
        assert bits.sum() == record.main.clean["flags"].hits


def test_running_again_launches_nothing(store):
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*.safetensors")}
    done = bench("run", *SWEEP, *WORDS, *ATTACKS, store=store)
    assert done.returncode == 0
    assert "4 of 4 cells done, 0 computed now" in done.stderr
    assert before == {p: p.stat().st_mtime_ns for p in store.rglob("*.safetensors")}


def test_same_seed_elsewhere_gives_the_same_identity_part(store, tmp_path):
    """Also: fewer methods beside it change nothing, and two workers draw as one does."""
    words = [*SWEEP[:1], "attack=badnets", "merge=ties", "defense=scale_lambda"]
    done = bench("run", *words, *WORDS, *ATTACKS, "launcher.processes=1", store=tmp_path)
    assert done.returncode == 0, done.stderr
    (again,) = read(tmp_path).values()
    assert again.identity_part() == read(store)[again.key].identity_part()


def test_status_and_tables_read_what_is_there(store):
    done = bench("tables", "attacks_defenses", "--records", str(store), "-f", "json", store=store)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {
        "attack", "merge", "defense", "ca", "asr", "asr_clean_merge", "asr_excess", "asr_did",
        "target_recall", "triggered_acc", "n_seeds",
    } <= rows[0].keys()  # fmt: skip
    assert {row["defense"] for row in rows} >= {"none", "scale_lambda", "zero_shot"}


def test_a_corrupt_artifact_is_recomputed_and_named(store, tmp_path):
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    before = identity(copy)
    for path in (copy / "artifacts" / "merge").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    for folder in ("records", "artifacts/evaluation", "artifacts/defend"):
        shutil.rmtree(copy / folder)
    done = bench("run", *SWEEP, *WORDS, *ATTACKS, store=copy)
    assert done.returncode == 0, done.stderr
    assert "corrupt artifact" in done.stderr
    assert list((copy / "corrupt").iterdir())
    assert identity(copy) == before


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_records(store, tmp_path):
    words = ["run", *SWEEP, *WORDS, *ATTACKS]
    rng, kills = random.Random(0), 0
    while kills < 3:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmark", *words, f"store={tmp_path}"],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rng.uniform(8, 20))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    done = bench(*words, f"store={tmp_path}", store=tmp_path)
    assert done.returncode == 0, done.stderr
    assert identity(tmp_path) == identity(store)


NEW = {
    "merge": (
        "baselines/merging",
        """
from typing import ClassVar
from benchmark.components import component
from benchmark.types import Model

@component
class Newcomer:
    \"\"\"Returns the base.\"\"\"
    version: ClassVar[int] = 1
    fail: bool
    refuse: bool
    @property
    def needs(self):
        return ()
    def accepts(self, experts):
        return "it refuses these experts" if self.refuse else None
    def __call__(self, base, experts, ctx):
        if self.fail:
            raise RuntimeError("it was told to fail")
        return Model(dict(base))
""",
    )
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout with one merge more: one .py and one .yaml, nothing else edited."""
    root = tmp_path_factory.mktemp("checkout")
    for part in ("benchmark", "baselines", "lfpm", "conf", "tests", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, root / part)
    folder, code = NEW["merge"]
    (root / folder / "newcomer.py").write_text(code)
    target = f"{folder.replace('/', '.')}.newcomer.Newcomer"
    (root / "conf/merge/newcomer.yaml").write_text(
        f"_target_: {target}\nfail: false\nrefuse: false\n"
    )
    return root


def test_a_new_merge_is_two_files(checkout, store, tmp_path):
    listed = bench("ls", "merges", store=tmp_path, root=checkout)
    assert "newcomer" in listed.stdout
    # A glob sweep picks it up, and the others' records come from the store as they are.
    before = read(store)
    sweep = ["-m", "attack=badnets", "merge=glob([new*,ti*,task*])", "defense=none"]
    done = bench("run", *sweep, *WORDS, *ATTACKS, store=store, root=checkout)
    assert "3 of 3 cells done, 1 computed now" in done.stderr, done.stderr
    after = read(store)
    assert {record.names["merge"] for record in after.values()} >= {"newcomer", "ties"}
    assert all(after[key] == record for key, record in before.items())
    # And so do the tests.
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/test_conf.py"]
    collected = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert "merge-newcomer" in collected.stdout


def test_a_failing_cell_is_recorded_and_the_others_run(checkout, experts):
    sweep = ["-m", "attack=badnets", "merge=newcomer", "merge.fail=true,false", "defense=none"]
    done = bench("run", *sweep, *WORDS, *ATTACKS, store=experts, root=checkout)
    assert done.returncode == 1
    states = sorted(record.status for record in read(experts).values())
    assert states == ["done", "failed"]
    (failed,) = (r for r in read(experts).values() if r.status == "failed")
    assert "it was told to fail" in (failed.reason or "")
    last = done.stderr.strip().splitlines()
    assert any(line.startswith("failed: badnets/newcomer/none") for line in last[-4:])
    log = next(line.split(": ", 1)[1] for line in last if line.startswith("log of"))
    assert "RuntimeError" in Path(log).read_text()
    # A failure is tried again; what is done is not.
    again = bench("run", *sweep, *WORDS, *ATTACKS, store=experts, root=checkout)
    assert "1 of 2 cells done, 1 computed now" in again.stderr


def test_an_incompatible_pair_is_skipped_with_its_reason(checkout, experts):
    words = ["attack=badnets", "merge=newcomer", "merge.refuse=true", "defense=none"]
    done = bench("run", *words, *WORDS, *ATTACKS, store=experts, root=checkout)
    assert done.returncode == 0, done.stderr
    (record,) = read(experts).values()
    assert (record.status, record.reason) == ("skipped", "it refuses these experts")
    assert record.main is None


def test_an_attack_that_did_not_take_is_said_so_and_not_retried(store):
    words = ["attack=badnets", "attack.min_asr=1", "merge=ties", "defense=none"]
    done = bench("run", *words, *WORDS, store=store)
    assert done.returncode == 0, done.stderr
    (record,) = (r for r in read(store).values() if r.status == "not_implanted")
    assert "below min_asr=1" in (record.reason or "")
    again = bench("run", *words, *WORDS, store=store)
    assert "0 of 1 cells done, 0 computed now" in again.stderr


def test_a_checkpoint_that_does_not_fit_stops_the_run_and_names_three_tensors(tmp_path):
    from safetensors.torch import load_file, save_file

    state = load_file(ROOT / "benchmark/weights/mini.safetensors")
    path = tmp_path / "w.safetensors"
    names = sorted(name for name in state if name.startswith("visual."))
    wrong = {name: value for name, value in state.items() if name not in names[:2]}
    wrong[names[2]] = wrong[names[2]].flatten()[:3].clone()
    save_file(wrong, path)
    done = bench("run", *WORDS, f"backbone.weights={path}", store=tmp_path / "s")
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("error:")]
    assert f"backbone.weights={path} does not fit" in line
    assert all(name in line for name in names[:3])
    assert "Traceback" not in done.stderr
    path.write_text("not weights")
    done = bench("run", *WORDS, f"backbone.weights={path}", store=tmp_path / "s")
    assert done.returncode == 2
    assert f"{path} cannot be read as weights" in done.stderr
    assert "give safetensors or a state dict" in done.stderr


def test_pretraining_is_a_stage(tmp_path):
    words = [*WORDS, "stage=pretrain"]
    refused = bench("run", *words, store=tmp_path)
    assert refused.returncode == 2
    assert "add backbone.weights=null" in refused.stderr
    done = bench("run", *words, "backbone.weights=null", store=tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path(done.stderr.split("pre-trained weights: ")[1].strip())
    made = path.stat().st_mtime_ns
    again = bench("run", *words, "backbone.weights=null", store=tmp_path)
    assert again.returncode == 0
    assert path.stat().st_mtime_ns == made
    from benchmark.components import build
    from benchmark.models.backbone import Backbone
    from tests.test_conf import node_of

    backbone = build({**node_of("backbone", "mini"), "weights": str(path)}, "backbone")
    assert isinstance(backbone, Backbone)
    assert backbone.load()["visual.proj"].shape == (192, 128)


def test_a_store_that_cannot_be_written_ends_with_2(tmp_path):
    (tmp_path / "file").write_text("")
    done = bench("run", *WORDS, f"store={tmp_path / 'file'}", store=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: store={tmp_path / 'file'} cannot be written")


def test_bad_input_ends_with_2_and_one_line(tmp_path):
    done = bench("run", "merge=tis", store=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: unknown merge 'tis' (did you mean 'ties'?)\n"
    assert not done.stdout
