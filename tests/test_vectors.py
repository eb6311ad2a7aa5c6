"""Anti-backdoor vectors as ordinary task vectors: carried to another merge, written to a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from baselines.merging.simple_average import SimpleAverage
from baselines.merging.task_arithmetic import TaskArithmetic
from benchmark.algebra import add, norm, task_vector
from benchmark.artifacts import dump_model
from benchmark.components import build, identity, option, role
from benchmark.errors import BenchError
from benchmark.export import export
from benchmark.records import Record, write
from benchmark.store import Store, file_sha256
from benchmark.types import Model
from tests import tiny
from tests.made_records import record
from tests.test_lfpm import lfpm

BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGE = TaskArithmetic(scale=0.3)
TAU = task_vector(EXPERTS[0].weights, BASE)


def run(part: Any, merge: Any = MERGE, **changes: Any) -> Model:
    ctx = tiny.context(part, role=role("defense", part), images=15, **changes)
    return part(merge, BASE, EXPERTS, ctx)


# -- transfer


def transfer(origin: Any = MERGE) -> Any:
    own = {**option("merge", "task_arithmetic"), "scale": origin.scale}
    cls = option("defense", "transfer")["_target_"]
    return build({"_target_": cls, "origin": own, "source": lfpm()}, "defense")


def test_a_vector_carried_to_its_own_merge_is_lfpm_itself():
    carried, itself = run(transfer()), run(lfpm())
    assert tiny.equal(carried.encoder, itself.encoder)
    assert tiny.equal(carried.artifacts, itself.artifacts)
    assert carried.info["lambda_a"] == itself.info["lambda_a"]
    assert carried.info["merge"] == carried.info["origin"]


def test_a_vector_is_computed_once_and_added_to_any_merge():
    stages = tiny.MemoryStages()
    part = transfer()
    one = run(part, SimpleAverage(), stages=stages)
    two = run(part, TaskArithmetic(scale=0.5), stages=stages)
    assert stages.made == ["transfer_source"]
    tau = {name: one.artifacts[f"tau_a/{name}"] for name in BASE}
    assert tiny.equal(tau, {name: two.artifacts[f"tau_a/{name}"] for name in BASE})
    plain = TaskArithmetic(scale=0.5)(BASE, EXPERTS, tiny.context()).encoder
    assert tiny.equal(two.encoder, add(plain, tau, two.info["lambda_a"]))
    assert (two.info["origin"]["scale"], two.info["merge"]["scale"]) == (0.3, 0.5)


def test_a_transfer_is_what_its_parts_are():
    part = transfer()
    found = identity(part)["values"]
    assert found["origin"] == identity(MERGE)
    assert found["source"] == identity(lfpm())
    assert found != identity(transfer(TaskArithmetic(scale=0.4)))["values"]
    assert part.needs == lfpm().needs
    assert part.passes == lfpm().passes
    wrong = {**option("merge", "task_arithmetic"), "nonsense": 1}
    node = {"_target_": option("defense", "transfer")["_target_"], "origin": wrong}
    with pytest.raises(BenchError, match=r"unknown key defense\.origin\.nonsense"):
        build({**node, "source": lfpm()}, "defense")


# -- from a file


def vector(path: Path | None, scale: float = 1.0) -> Any:
    values = {"file": None if path is None else str(path), "scale": scale}
    return build({**option("defense", "task_vector"), **values}, "defense")


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "tau.safetensors"
    save_file(TAU, path, metadata={"what": "a test"})
    return path


def test_a_vector_from_a_file_is_added_times_its_scale(file):
    merged = MERGE(BASE, EXPERTS, tiny.context()).encoder
    made = run(vector(file, 0.25))
    assert tiny.equal(made.encoder, add(merged, TAU, 0.25))
    assert made.info["norm"] == pytest.approx(norm(TAU))
    assert made.info["file"] == {"what": "a test"}
    assert tiny.equal(run(vector(file, 0.0)).encoder, merged)
    assert vector(file).needs == ()


def test_a_files_content_is_its_identity_and_its_path_is_not(file, tmp_path):
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(file.read_bytes())
    assert identity(vector(file)) == identity(vector(copied))
    save_file({**TAU, "ln_post.bias": TAU["ln_post.bias"] + 1}, copied)
    assert identity(vector(file)) != identity(vector(copied))
    assert identity(vector(file)) != identity(vector(file, 0.5))


def test_files_that_do_not_do_are_told_in_one_sentence(tmp_path):
    assert "defense.file is null" in (vector(None).accepts(MERGE) or "")
    with pytest.raises(BenchError, match=r"defense\.file=.*there is no such file"):
        identity(vector(tmp_path / "absent"))
    (tmp_path / "text").write_text("no vector")
    with pytest.raises(BenchError, match="is no safetensors file"):
        run(vector(tmp_path / "text"))
    save_file({"proj": torch.zeros(2)}, tmp_path / "short")
    with pytest.raises(BenchError, match=r"does not fit the merged model: .* is missing"):
        run(vector(tmp_path / "short"))


# -- to a file


@pytest.fixture
def kept(tmp_path) -> tuple[Store, Record]:
    """A store with one record and its defended model."""
    store = Store(tmp_path / "store")
    found = replace(record("lfpm"), key="0" * 32, parents={"model": "1" * 32})
    artifacts = {f"tau_a/{name}": value for name, value in TAU.items()}
    artifacts["prompt/a"] = torch.zeros(1, 3, 4, 4)
    write(store.root / "records", found)
    store.save("defend", "1" * 32, dump_model(Model(BASE, artifacts=artifacts)), {})
    return store, found


def test_a_vector_goes_to_a_file_and_comes_back_as_a_defence(kept, tmp_path):
    (store, found), out = kept, tmp_path / "out" / "tau.safetensors"
    told = export([found.key, f"store={store.root}"], "tau_a", out)
    assert (told["record"], told["tensors"]) == (found.key, len(TAU))
    assert told["norm"] == pytest.approx(norm(TAU))
    assert told["sha256"] == identity(vector(out))["values"]["file"] == file_sha256(out)
    made = run(vector(out, 0.5))
    merged = MERGE(BASE, EXPERTS, tiny.context()).encoder
    assert tiny.equal(made.encoder, add(merged, TAU, 0.5))
    said = made.info["file"]
    assert (said["family"], said["record"]) == ("tau_a", found.key)
    assert json.loads(said["names"]) == found.names
    assert json.loads(said["config"]) == found.config
    other = export([found.key, f"store={store.root}"], "prompt", out)
    assert other["tensors"] == 1


def test_what_cannot_be_exported_is_told_in_one_sentence(kept, tmp_path):
    (store, found), out = kept, tmp_path / "tau.safetensors"
    with pytest.raises(BenchError, match=r"left no 'tau' .*did you mean 'tau_a'"):
        export([found.key, f"store={store.root}"], "tau", out)
    with pytest.raises(BenchError, match="there is no record"):
        export(["2" * 32, f"store={store.root}"], "tau_a", out)
    with pytest.raises(BenchError, match=r"run `lfpm-bench run defense=none store=.*` first"):
        export(["defense=none", f"store={store.root}"], "tau_a", out)
    with pytest.raises(BenchError, match="is not one cell"):
        export(["-m", "seed=0,1", f"store={store.root}"], "tau_a", out)
    store.path("defend", "1" * 32).unlink()
    with pytest.raises(BenchError, match="run its cell again"):
        export([found.key, f"store={store.root}"], "tau_a", out)
    assert not out.exists()
