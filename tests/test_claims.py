"""Claims: one holder at a time, and none that is dead."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchmark import claims
from benchmark.claims import LEASE, claimed, holder, holders
from tests.small import ROOT

SPAWN = multiprocessing.get_context("spawn")


def _hold(folder: Path) -> None:
    with claimed(folder, "k", "a long job"):
        time.sleep(60)


@pytest.fixture
def other(tmp_path):
    """Another process that holds `k`."""
    process = SPAWN.Process(target=_hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "k.1").exists() or not (tmp_path / "k.1").read_text():
        time.sleep(0.02)
    yield process
    process.kill()
    process.join()


def test_a_claim_is_held_once_and_void_at_once_when_its_process_is_killed(tmp_path, other):
    with claimed(tmp_path, "k") as ours:
        assert not ours
    found = holder(tmp_path, "k")
    assert found is not None
    assert (found.label, found.pid, found.alive) == ("a long job", other.pid, True)
    os.kill(other.pid, signal.SIGKILL)
    while (found := holder(tmp_path, "k")) and found.alive:
        time.sleep(0.01)  # until the system has seen to it; a zombie is dead
    with claimed(tmp_path, "k") as ours:
        assert ours
        assert (tmp_path / "k.2").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_process_is_given_its_own_claim_again(tmp_path):
    with claimed(tmp_path, "k") as first, claimed(tmp_path, "k") as second:
        assert first
        assert second
    assert holder(tmp_path, "k") is None


def test_who_waits_for_a_claim_gets_it_when_its_holder_dies(tmp_path, other):
    order = []

    def wait(name):
        with claims.alone(tmp_path, "k"):
            order.append(name)
            time.sleep(0.05)
            order.append(name)

    threads = [threading.Thread(target=wait, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    assert order == []
    os.kill(other.pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert order in (["a", "a", "b", "b"], ["b", "b", "a", "a"])
    assert list(tmp_path.iterdir()) == []


def test_nothing_needs_the_locks_of_a_file_system():
    modules = [
        path for name in ("benchmark", "baselines", "lfpm") for path in (ROOT / name).rglob("*.py")
    ]
    lock = re.compile(r"\b(filelock|fcntl|flock|lockf)\b")
    assert not [path for path in modules if lock.search(path.read_text())]


def forge(path: Path, **changes) -> None:
    """A claim of this process, but for some changes."""
    body = {"label": "x", "host": "h", "place": claims._place(), "pid": os.getpid(), "since": 0}
    path.write_text(json.dumps({**body, "born": claims._born(os.getpid()), **changes}))


def test_a_number_that_another_process_has_by_now_is_not_the_holder(tmp_path):
    forge(tmp_path / "k.1")
    assert holders(tmp_path)[0].alive
    forge(tmp_path / "k.1", born="1")
    assert not holders(tmp_path)[0].alive


@pytest.mark.parametrize("text", ["", '{"place": "elsewhere", "pid": 1, "born": "1"}'])
def test_another_machines_claim_lives_while_it_is_touched(tmp_path, text):
    path = tmp_path / "k.1"
    path.write_text(text)
    with claimed(tmp_path, "k") as ours:
        assert not ours
    os.utime(path, (0, path.stat().st_mtime - LEASE - 5))
    with claimed(tmp_path, "k") as ours:
        assert ours
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_was_taken_for_dead_leaves_its_successors_claim_alone(tmp_path):
    with claimed(tmp_path, "k") as ours:
        assert ours
        forge(tmp_path / "k.2", pid=os.getppid(), born=claims._born(os.getppid()))
    found = holder(tmp_path, "k")
    assert found is not None
    assert (found.pid, found.alive) == (os.getppid(), True)


def test_a_claim_is_touched_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    with claimed(tmp_path, "k"):
        os.utime(tmp_path / "k.1", (0, 0))
        for _ in range(500):
            if (tmp_path / "k.1").stat().st_mtime > 0:
                break
            time.sleep(0.02)
        assert (tmp_path / "k.1").stat().st_mtime > 0


def _count(folder: Path, rounds: int) -> None:
    """Add one to a number in a file, which only works alone."""
    number = folder / "number"
    while rounds:
        with claimed(folder / "claims", "k") as ours:
            if ours:
                seen = int(number.read_text())
                time.sleep(0.001)
                number.write_text(str(seen + 1))
                rounds -= 1


def test_only_one_of_many_holds_a_claim(tmp_path):
    (tmp_path / "number").write_text("0")
    many = [SPAWN.Process(target=_count, args=(tmp_path, 20)) for _ in range(3)]
    for one in many:
        one.start()
    for one in many:
        one.join()
    assert (tmp_path / "number").read_text() == "60"
    assert list((tmp_path / "claims").iterdir()) == []


def test_without_proc_a_process_number_in_use_counts_as_alive(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert claims._number_in_use(os.getpid()) == ""
    assert claims._number_in_use(ended.pid) is None

    def refused(*_):
        raise PermissionError

    monkeypatch.setattr(os, "kill", refused)  # somebody else's process: it is there
    assert claims._number_in_use(1) == ""
