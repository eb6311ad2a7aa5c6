"""What a run will still take: an honest lower bound, from what its jobs took so far."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.clock import LEAST, Clock, duration
from benchmark.costs import Costs, kinds_of, measured_seconds
from benchmark.display import Lines
from benchmark.jobs import Job
from benchmark.store import Store
from tests.test_launchers import graphs
from tests.test_slurm_parts import TWO_CELLS, World


def job(key: str, kind: str, after: str = "") -> Job:
    kinds = (f"{kind} exactly", f"{kind} class", kind)
    return Job(key, kind, key, (), {}, frozenset(after.split()), kinds=kinds)


def past(**seconds: float) -> Costs:
    found = Costs()
    for kind, one in seconds.items():
        found.learn((kind,), one)
    return found


JOBS = {one.key: one for one in (job("a", "long"), job("b", "short", "a"), job("c", "short", "a"))}


def test_work_is_shared_out_but_no_chain_is_cut_short():
    assert Clock(JOBS, past(long=10, short=4), 1).left() == (18, 0)
    assert Clock(JOBS, past(long=10, short=4), 2).left() == (14, 0)  # a, then b beside c
    assert Clock(JOBS, past(long=1, short=4), 2).left() == (5, 0)


def test_what_runs_counts_down_and_what_ended_teaches():
    now = [0.0]
    clock = Clock(JOBS, past(long=10), 1, lambda: now[0])
    assert clock.left() == (10, 2)
    assert clock.told() == "more than 10 s left"
    clock.start(JOBS["a"])
    now[0] = 4.0
    assert clock.left() == (6, 2)
    now[0] = 50.0  # it takes longer than expected: some time is left until it ends
    assert clock.left() == (LEAST * 10, 2)
    assert clock.end(JOBS["a"], done=True) == 50.0
    clock.start(JOBS["b"])
    now[0] = 57.0
    clock.end(JOBS["b"], done=True)
    assert clock.left() == (7, 0)
    assert clock.told() == "about 7 s left"
    assert clock.end(JOBS["c"], done=False) is None
    assert (clock.left(), clock.told(), clock.ended, clock.total) == ((0, 0), "", 3, 3)


def test_what_was_computed_elsewhere_teaches_what_its_result_says():
    took = {"a": 50.0}
    clock = Clock(JOBS, past(long=10, short=4), 2, lambda: 0.0, lambda job: took.get(job.key))
    assert clock.told() == "about 14 s left, 2 at once"
    assert clock.end(JOBS["a"], done=True) == 50.0, "it never started here"
    assert clock.end(JOBS["b"], done=True) is None
    took["c"] = 9.0
    assert clock.end(JOBS["c"], done=False) is None, "of what was lost nothing is written"
    again = Clock(JOBS, clock._costs, 1)
    assert again.left() == (50 + 4 + 4, 0)


def test_seconds_are_read_beside_a_result(tmp_path):
    store = Store(tmp_path)
    store.save("s", "k", ({}, {}), {}, {"seconds": 7.5})
    store.path("s", "torn").write_text("{")
    told = [measured_seconds(store, "s", key) for key in ("k", "torn", "absent")]
    assert told == [7.5, None, None]


def test_under_slurm_the_clock_learns_from_results(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    kinds = ("chained",)
    jobs = {key: replace(job, kinds=kinds) for key, job in TWO_CELLS.items()}
    clock = Clock(jobs, Costs(), 1, made=lambda job: measured_seconds(world.store, "s", job.key))
    for key in "abc":
        world.store.save("s", key, ({}, {}), {}, {"seconds": 60.0})
    told = []

    def last():
        told.append(clock.told())
        world.finish(*"de")

    world.watch.open = jobs
    world.then = iter([last])
    assert len(list(world.watch.outcomes(Lines(clock), 1.0))) == 5
    assert told == ["about 2 min left"]


def test_the_most_similar_jobs_tell():
    found = Costs()
    for kinds, seconds in ((("d lfpm 1", "d lfpm", "d"), 90), (("d ft 1", "d ft", "d"), 10)):
        found.learn(kinds, seconds, 100, memory=7 * seconds)
    assert found.seconds(("d lfpm 1", "d lfpm", "d")) == 90
    assert found.seconds(("d ft 2", "d ft", "d")) == 10
    assert found.seconds(("d anp 1", "d anp", "d")) == 50
    assert found.seconds(("e",)) is None
    assert found.size(("d anp 1", "d anp", "d")) == 100
    assert found.memory(("d lfpm 1", "d lfpm", "d")) == 630
    assert found.memory(("d anp 1", "d anp", "d")) == 630, "the most that any of them held"
    assert found.memory(("e",)) is None


def test_seeds_and_parents_make_no_other_kind_but_values_do():
    def of(passes: int, seed: int, merge: str) -> tuple[str, ...]:
        node = {"target": "m.Lfpm", "version": 1, "values": {"passes": passes}}
        return kinds_of("defend", {"defense": node, "merge": merge, "seed": seed})

    first, again = of(5, 0, "a" * 32), of(5, 1, "b" * 32 + "/signs")
    assert first == again
    assert first[1:] == ("defend m.Lfpm", "defend")
    assert of(6, 0, "a" * 32)[0] != first[0]


@given(graphs(), st.integers(1, 4), st.data())
def test_the_bound_is_never_above_one_after_the_other_nor_below_all_at_once(jobs, width, data):
    found, costs = Costs(), {}
    for number, key in enumerate(jobs):
        costs[key] = data.draw(st.integers(1, 9))
        jobs[key] = Job(*list(vars(jobs[key]).values())[:-1], kinds=(f"kind {number}",))
        found.learn((f"kind {number}",), costs[key])
    seconds, unknown = Clock(jobs, found, width).left()
    assert unknown == 0
    assert max(costs.values()) <= seconds <= sum(costs.values())
    assert seconds >= sum(costs.values()) / width
    assert Clock(jobs, found, 1).left()[0] == sum(costs.values())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3599, "1 h 0 min"), (9000, "2 h 30 min"),
     (200_000, "2 d 7 h")],
)  # fmt: skip
def test_durations_are_for_people(seconds, words):
    assert duration(seconds) == words
