"""Launchers: every option is a component with all its values, and each keeps to the schedule."""

import dataclasses
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import failures
from benchmark.components import build, locate, option, options
from benchmark.errors import BenchError
from benchmark.jobs import Job
from benchmark.launching import Outcome, Schedule, ended
from benchmark.store import Store

NAMES = options("launcher")


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_a_launcher_is_in_its_yaml(name):
    node = option("launcher", name)
    cls = locate(node["_target_"])
    assert {field.name for field in dataclasses.fields(cls)} == node.keys() - {"_target_"}
    built = build(node, "launcher")
    assert built.threads == 1
    assert built.device == "cpu"
    with pytest.raises(BenchError, match=r"launcher\.threads=0 is not valid"):
        build({**node, "threads": 0}, "launcher")


@st.composite
def graphs(draw) -> dict[str, Job]:
    """Jobs of which each waits for some of those before it, and for one that is done."""
    size = draw(st.integers(1, 12))
    jobs = {}
    for number in range(size):
        before = draw(st.sets(st.integers(0, number - 1))) if number else set()
        after = frozenset({"done already", *(f"j{one}" for one in before)})
        cell, cost = draw(st.integers(0, 3)), float(draw(st.integers(0, 3)))
        jobs[f"j{number}"] = Job(f"j{number}", "s", f"job {number}", (), {}, after, cost, cell)
    return jobs


@given(graphs(), st.data())
def test_every_job_ends_once_and_only_the_followers_of_a_lost_one_are_lost(jobs, data):
    lost = data.draw(st.sets(st.sampled_from(sorted(jobs))))
    schedule, ended, taken = Schedule(jobs), {}, []
    while len(schedule):
        job = schedule.take()
        assert job is not None, "open jobs of which none may start"
        assert all(ended[one].status == "done" for one in job.after & jobs.keys())
        if data.draw(st.booleans()):
            schedule.give_back(job)
            continue
        taken.append(job.key)
        status = "failed" if job.key in lost else "done"
        for outcome in schedule.end(Outcome(job, status, None if status == "done" else "why")):
            assert outcome.job.key not in ended
            ended[outcome.job.key] = outcome
    assert ended.keys() == jobs.keys()
    assert len(taken) == len(set(taken))
    for key, job in jobs.items():
        before = [ended[one] for one in job.after & jobs.keys()]
        fine = key not in lost and all(one.status == "done" for one in before)
        assert (ended[key].status == "done") == fine
        if key not in taken:
            assert ended[key].reason == "why"
            assert ended[key].culprit in {jobs[one].label for one in lost}


def test_early_cells_come_first_and_of_these_the_long_jobs():
    sizes = {"a": (1, 9.0), "b": (0, 1.0), "c": (0, 2.0)}
    jobs = {k: Job(k, "s", k, (), {}, frozenset(), cost, cell) for k, (cell, cost) in sizes.items()}
    schedule = Schedule(jobs)
    assert [job.key for _ in jobs if (job := schedule.take())] == ["c", "b", "a"]
    assert schedule.take() is None
    assert len(schedule) == 3


def test_another_run_s_failure_counts_whatever_its_clock_says(tmp_path, monkeypatch):
    store, job = Store(tmp_path), Job("k", "s", "job k", (), {}, frozenset())
    failures.note(store, job, "long ago")
    before = failures.counted(store)
    assert before == {"k": 1}
    assert ended(job, store, before) is None, "it is tried again"
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the other machine's clock is slow
    failures.note(store, job, "its task is gone", seen=False)
    assert ended(job, store, before) is None, "nobody has seen it fail"
    failures.note(store, job, "it broke")
    assert ended(job, store, before) == Outcome(job, "failed", "it broke")
    path = store.path("s", "k")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert ended(job, store, before) == Outcome(job, "done")
