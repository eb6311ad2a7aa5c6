"""The store: same inputs, same address; incomplete is invisible; nothing is computed twice."""

import json
import logging
import multiprocessing
import os
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark import store as stores
from benchmark.errors import BenchError
from benchmark.store import Store, canonical, content_sha256, file_sha256, key_of, write_atomic

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def artifact(value=1.0):
    return {"x": torch.full((3,), value)}, {"said": value}


def test_stage_makes_once_and_gives_back_the_same(tmp_path):
    store, calls = Store(tmp_path), []

    def make():
        calls.append(1)
        return artifact()

    first = store.stage("thing", 1, {"a": 1}, make)
    second = Store(tmp_path).stage("thing", 1, {"a": 1}, make)
    assert len(calls) == 1
    assert torch.equal(first[0]["x"], second[0]["x"])
    assert first[1] == second[1] == {"said": 1.0}


@given(plain, plain)
def test_keys_are_equal_exactly_for_equal_inputs(one, other):
    same = canonical(one) == canonical(other)
    assert (key_of("s", 1, {"v": one}) == key_of("s", 1, {"v": other})) == same


def test_key_depends_on_stage_and_version_but_not_on_order():
    key = key_of("s", 1, {"a": 1, "b": 2})
    assert key == key_of("s", 1, {"b": 2, "a": 1})
    assert key not in {key_of("s", 2, {"a": 1, "b": 2}), key_of("t", 1, {"a": 1, "b": 2})}


def test_a_making_that_fails_leaves_nothing(tmp_path):
    store = Store(tmp_path)

    def broken():
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        store.stage("thing", 1, {}, broken)
    assert not store.has("thing", key_of("thing", 1, {}))
    assert store.stage("thing", 1, {}, artifact)[1] == {"said": 1.0}


def test_tensors_without_their_json_do_not_exist(tmp_path):
    store, key = Store(tmp_path), key_of("thing", 1, {})
    store.save("thing", key, artifact(), {})
    store.path("thing", key).unlink()
    assert not store.has("thing", key)
    assert store.load("thing", key) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "json"])
def test_a_corrupt_artifact_is_named_moved_aside_and_made_again(tmp_path, caplog, damage):
    store, key = Store(tmp_path), key_of("thing", 1, {})
    store.save("thing", key, artifact(), {})
    tensors = store.path("thing", key).with_suffix(".safetensors")
    data = bytearray(tensors.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        tensors.write_bytes(data)
    elif damage == "truncate":
        tensors.write_bytes(data[: len(data) // 2])
    else:
        store.path("thing", key).write_text("{")
    with caplog.at_level(logging.WARNING):
        again = store.stage("thing", 1, {}, lambda: artifact(2.0))
    assert again[1] == {"said": 2.0}
    assert str(tensors) in caplog.text
    assert (tmp_path / "corrupt" / tensors.name).exists()


def _make_slowly(root, log):
    def make():
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return artifact()

    Store(root).stage("thing", 1, {}, make)


def test_two_processes_do_not_make_the_same_thing_twice(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_make_slowly, args=(tmp_path / "s", log)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
        assert one.exitcode == 0
    assert len(log.read_text().splitlines()) == 1


def test_atomic_writing_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomic(path, b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_store_that_cannot_be_written_says_so_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match=r"store=.*cannot be written.*store=DIR"):
        Store(tmp_path / "file").check_writable()


def test_provenance_is_beside_the_artifact_and_not_in_its_key(tmp_path):
    for commit in ("a", "b"):
        Store(tmp_path, {"commit": commit}).stage("thing", 1, {}, artifact, lambda: {"seconds": 1})
    sidecar = json.loads(Store(tmp_path).path("thing", key_of("thing", 1, {})).read_text())
    assert sidecar["made"] == {"commit": "a", "seconds": 1}


def test_tensors_that_share_memory_are_kept_each_in_full(tmp_path):
    whole = torch.arange(6.0).view(2, 3)
    given = {"benign": whole, "malicious": whole, "row": whole[1], "turned": whole.T}
    store = Store(tmp_path)
    store.save("thing", key_of("thing", 1, {}), (given, {}), {})
    found, _ = Store(tmp_path).stage("thing", 1, {}, lambda: pytest.fail("it is there"))
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], value) for name, value in given.items())


def test_a_file_is_hashed_once_unless_it_has_just_been_written(tmp_path, monkeypatch):
    path, read = tmp_path / "weights", []

    def counted(one):
        read.append(one)
        return file_sha256(one)

    monkeypatch.setattr(stores, "file_sha256", counted)
    now = time.time()
    hashes = set()
    for data in (b"one", b"two"):  # of one length, within one tick of the file system's clock
        path.write_bytes(data)
        os.utime(path, (now, now))
        hashes.add(content_sha256(path))
    assert len(hashes) == len(read) == 2
    os.utime(path, (now - 60, now - 60))
    assert content_sha256(path) == content_sha256(path) == file_sha256(path)
    assert len(read) == 3
