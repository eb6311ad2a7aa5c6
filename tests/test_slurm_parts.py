"""launcher=slurm without Slurm: shares of the jobs, what is queued already, how jobs end."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark import claims, config, failures
from benchmark.cell import cell_from
from benchmark.components import build, option
from benchmark.errors import BadCheckpoint, BenchError
from benchmark.jobs import Graph, Job, plan_cell
from benchmark.launching import Outcome, ended
from benchmark.slurm import queue, submissions, submitting
from benchmark.slurm.shares import LIMIT, missing_from, shares
from benchmark.slurm.submissions import Submission
from benchmark.slurm.task import Task
from benchmark.slurm.watching import Watch, held
from benchmark.slurm.whereabouts import whereabouts
from benchmark.store import Store, write_atomic
from tests.small import WORDS
from tests.test_launchers import graphs

NODE = option("launcher", "slurm")


class Silent:
    def __getattr__(self, name):
        return lambda *words: None


def chain(*numbers: tuple[str, str, int]) -> dict[str, Job]:
    """Jobs from (key, keys of what it waits for, cell)."""
    return {k: Job(k, "s", f"job {k}", (), {}, frozenset(w), 0.0, c) for k, w, c in numbers}


TWO_CELLS = chain(("a", "", 1), ("b", "a", 1), ("c", "ab", 1), ("d", "c", 1), ("e", "c", 2))


@given(graphs(), st.integers(1, 4))
def test_every_job_is_in_one_share_and_own_ones_wait_for_common_ones_only(jobs, several):
    made = shares(jobs, several)
    every = [job.key for part in (made.common, *made.own) for job in part]
    assert sorted(every) == sorted(jobs)
    assert not missing_from(made.common, jobs)
    common = {job.key for job in made.common}
    for part in made.own:
        assert missing_from(part, jobs).keys() <= common
        assert len({job.cell for job in part}) <= several
    for part in (made.common, *made.own):
        seen = {job.key for job in part}
        for job in reversed(part):  # each after those it waits for
            seen.discard(job.key)
            assert job.after & {one.key for one in part} <= seen


def test_what_two_cells_wait_for_is_common_and_a_lone_cell_is_shared_out():
    made = shares(TWO_CELLS, 1)
    assert [job.key for job in made.common] == ["a", "b", "c"]
    assert [[job.key for job in part] for part in made.own] == [["d"], ["e"]]
    alone = {key: TWO_CELLS[key] for key in "abcd"}
    assert shares(alone, 1).own == ()
    assert len(shares(alone, 1).common) == 4


def test_a_long_sweep_fits_into_one_array():
    jobs = chain(*((f"j{n}", "", n) for n in range(2 * LIMIT + 1)))
    sizes = [len(part) for part in shares(jobs, 1).own]
    assert len(sizes) <= LIMIT
    assert sum(sizes) == len(jobs)
    assert max(sizes) == 3


def test_what_is_queued_is_held_but_not_after_a_loss_nor_without_what_it_waits_for(tmp_path):
    old = Submission(tmp_path / "old", {"1_0": ["a", "b", "c"], "1_1": ["a", "b", "c"]})
    new = Submission(tmp_path / "new", {"2_0": ["c", "d"], "2_1": ["e", "z"]})

    def keys(found: list[Submission]) -> dict[str, list[str]]:
        return {task: list(given) for one in found for task, given in one.tasks.items()}

    both = keys(held(TWO_CELLS, [old, new]))
    assert both == {"1_0": ["a", "b"], "1_1": ["a", "b"], "2_0": ["c", "d"], "2_1": ["e"]}
    assert keys(held(TWO_CELLS, [new])) == {}  # nobody has a and b
    submissions.note_lost(new.folder, "d", "failed", "why", None)
    assert keys(held(TWO_CELLS, [old, new]))["2_0"] == ["c"]
    submissions.note_lost(old.folder, "a", "failed", "why", None)
    assert keys(held(TWO_CELLS, [old, new])) == {}


TASKS = {"7_0": ["a", "b", "c"], "8_0": ["d"], "8_1": ["e"]}


class World:
    """A store, a submission of TWO_CELLS, and a queue that says what it is told to say."""

    def __init__(self, root, monkeypatch, grace_s=0.0, tasks=TASKS):
        self.store = Store(root)
        self.submission = Submission(root / "slurm/x", tasks)
        self.alive: set[str] | None = set(tasks)
        self.looks = 0
        monkeypatch.setattr(queue, "living", lambda known: self._living(set(known)))
        monkeypatch.setattr(queue, "last_state", lambda task: "CANCELLED by 7")
        monkeypatch.setattr(time, "sleep", self._next)
        self.then = iter(())
        self.watch = Watch(dict(TWO_CELLS), [self.submission], self.store, grace_s)

    def _living(self, known):
        assert known <= {"7_0", "8_0", "8_1"}
        return self.alive

    def _next(self, seconds):
        next(self.then)()

    def finish(self, *keys):
        for key in keys:
            write_atomic(self.store.path("s", key), b"{}")

    def ended(self, *then) -> dict[str, Outcome]:
        self.then = iter(then)
        return {one.job.key: one for one in self.watch.outcomes(Silent(), 1.0)}


def test_an_artifact_is_the_truth_whatever_the_queue_says(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    world.alive = set()
    world.finish("a", "b", "c", "d", "e")
    assert {one.status for one in world.ended().values()} == {"done"}


def test_a_queue_that_does_not_answer_costs_nothing(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    world.alive = None
    found = world.ended(
        lambda: None, lambda: world.finish(*"abc"), lambda: None, lambda: world.finish(*"de")
    )
    assert {one.status for one in found.values()} == {"done"}


def test_a_loss_takes_what_waits_for_it_and_nothing_else(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    world.finish(*"abc")
    submissions.note_lost(world.submission.folder, "d", "failed", "it broke", "job x")
    found = world.ended(lambda: world.finish("e"))
    assert (found["d"].status, found["d"].reason, found["d"].culprit) == (
        "failed",
        "it broke",
        "job x",
    )
    assert found["e"].status == "done"
    world = World(tmp_path / "other", monkeypatch)
    submissions.note_lost(world.submission.folder, "b", "skipped", "it does not fit", None)
    found = world.ended(lambda: world.finish("a"))
    lost = {key: (one.status, one.culprit) for key, one in found.items()}
    assert lost == {
        "a": ("done", None), "b": ("skipped", None), "c": ("skipped", "job b"),
        "d": ("skipped", "job b"), "e": ("skipped", "job b"),
    }  # fmt: skip


def test_a_task_that_is_gone_is_given_a_grace_and_then_its_jobs_are_lost(tmp_path, monkeypatch):
    world, now = World(tmp_path, monkeypatch, grace_s=10), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    world.finish(*"abc")

    def at(seconds, *keys):
        def happen():
            now[0] = seconds
            world.finish(*keys)

        return happen

    world.alive = {"8_1"}
    late = at(9, "e")  # within the grace nothing is lost
    found = world.ended(at(5), late, at(10), at(10.5))
    assert found["e"].status == "done"
    assert found["d"].status == "failed"
    log = world.submission.folder / "8_0_0_log.err"
    assert found["d"].reason == (
        f"Slurm task 8_0 did not compute it: it ended as CANCELLED by 7; log {log}"
    )


def test_the_ledger_names_what_was_tried_and_not_what_waited_for_it(tmp_path, monkeypatch):
    world = World(tmp_path / "chain", monkeypatch, grace_s=-1)
    world.alive = set()
    assert {one.status for one in world.ended().values()} == {"failed"}
    (noted,) = failures.ledger(world.store)
    assert (noted.key, noted.seen) == ("a", False)
    # d and e wait for nothing that is missing; of the two the task had begun e when it ended.
    world = World(tmp_path / "begun", monkeypatch, grace_s=-1, tasks={"8_0": [*"abcde"]})
    world.finish(*"abc")
    world.alive = set()
    with claims.claimed(world.store.claims, "e"):
        assert {key for key, one in world.ended().items() if one.status == "failed"} == {*"de"}
    assert [one.key for one in failures.ledger(world.store)] == ["e"]


def test_what_slurm_lost_is_computed_by_whoever_is_left(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, grace_s=-1)
    before = failures.counted(world.store)
    world.alive = set()
    world.ended()
    assert failures.attempts(world.store, "a")
    assert ended(TWO_CELLS["a"], world.store, before) is None


def test_a_requeued_task_starts_its_grace_anew(tmp_path, monkeypatch):
    world, now = World(tmp_path, monkeypatch, grace_s=10), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    world.finish(*"abce")

    def at(seconds, alive):
        def happen():
            now[0], world.alive = seconds, alive

        return happen

    steps = (at(6, set()), at(8, {"8_0"}), at(12, set()), at(20, set()))
    found = world.ended(*steps, lambda: world.finish("d"))
    assert found["d"].status == "done"


def test_a_task_that_gave_up_says_why(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, grace_s=-1)
    world.finish(*"abce")
    world.alive = set()
    write_atomic(world.submission.folder / "8_0.reason", b"it ran out of time too often\n")
    assert "did not compute it: it ran out of time too often; log" in str(world.ended()["d"].reason)


def test_unusable_weights_stop_everything(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch)
    submissions.note_lost(world.submission.folder, "a", "bad_input", "backbone.weights=x", None)
    with pytest.raises(BadCheckpoint, match=r"backbone\.weights=x"):
        world.ended()


class Here:
    """A launcher that loses the jobs it is told to lose, as a launcher on a node would."""

    threads, device, width = 1, "cpu", 1

    def __init__(self, *lost: str) -> None:
        self.lost = lost
        self.seen: list[str] = []

    def __call__(self, jobs, store, display):
        for key, job in jobs.items():
            self.seen.append(key)
            bad = key in self.lost
            yield Outcome(job, "failed" if bad else "done", "it broke" if bad else None)


@pytest.fixture
def node(monkeypatch):
    """A node on which no worker process is started."""
    from contextlib import nullcontext

    from benchmark.slurm import task

    class Module:
        class core:
            class utils:
                class UncompletedJobError(RuntimeError):
                    pass

        @staticmethod
        def JobEnvironment():
            return type("Environment", (), {"job_id": "8_0"})()

    monkeypatch.setattr(task, "submitit", lambda: Module)
    monkeypatch.setattr(task, "_deaf_children", nullcontext)
    return Module


def share(tmp_path, launcher, keys="de") -> Task:
    jobs = [TWO_CELLS[key] for key in keys]
    needs = missing_from(jobs, TWO_CELLS)
    return Task(tuple(jobs), needs, Store(tmp_path), tmp_path / "slurm/x", launcher)


def test_a_task_computes_what_is_missing_and_notes_what_it_lost(tmp_path, node):
    for key in "abc":
        write_atomic(tmp_path / f"artifacts/s/{key}.json", b"{}")
    first = share(tmp_path, Here("e"))
    first()
    assert first.launcher.seen == ["d", "e"]
    assert submissions.lost(first.folder) == {
        "e": {"status": "failed", "reason": "it broke", "culprit": None}
    }
    # Queued again: what is in the store is not computed, what was lost is tried once more.
    write_atomic(tmp_path / "artifacts/s/d.json", b"{}")
    second = share(tmp_path, Here())
    second()
    assert second.launcher.seen == ["e"]
    assert submissions.lost(second.folder) == {}


def test_a_task_whose_needs_were_lost_passes_their_reason_on(tmp_path, node):
    submissions.note_lost(tmp_path / "slurm/x", "c", "skipped", "it does not fit", "job b")
    task = share(tmp_path, Here())
    task()
    assert task.launcher.seen == []
    note = {"status": "skipped", "reason": "it does not fit", "culprit": "job b"}
    assert submissions.lost(task.folder) == {"c": note, "d": note, "e": note}


def test_a_task_out_of_time_for_good_says_so(tmp_path, node):
    class Late(Here):
        def __call__(self, jobs, store, display):
            raise node.core.utils.UncompletedJobError("timed-out too many times")
            yield

    task = share(tmp_path, Late(), "a")
    with pytest.raises(node.core.utils.UncompletedJobError):
        task()
    reason = Submission(task.folder, {}).reason("8_0")
    assert reason == "it ran out of time too often; raise launcher.time_min or launcher.timeouts"
    assert submissions.lost(task.folder) == {}  # others may be at the same jobs


def test_submissions_are_found_again_oldest_first(tmp_path):
    store = Store(tmp_path)
    made = [Submission(submissions.opened(store), {f"{n}_0": [f"k{n}"]}) for n in range(3)]
    for one in made:
        submissions.write(one)
    assert {one.folder for one in submissions.read_all(store)} == {one.folder for one in made}
    assert json.loads((made[0].folder / "tasks.json").read_text()) == {"0_0": ["k0"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"device": "cuda"}, "device=cuda needs launcher.gpus=1"),
        ({"time_min": 3}, r"time_min=3 leaves less than 90 s before the warning, warning_s=120 s"),
        ({"parallel": 0}, r"launcher\.parallel=0 is not valid"),
        ({"mem": 3}, r"unknown key launcher\.mem \(did you mean 'mem_gb'\?\)"),
    ],
)
def test_values_that_make_no_sense_are_one_sentence(values, message):
    with pytest.raises(BenchError, match=message) as error:
        build({**NODE, **values}, "launcher")
    assert "\n" not in str(error.value)


def test_without_submitit_or_slurm_it_says_what_to_do(monkeypatch, tmp_path):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(submitting, "import_module", absent)
    launcher = build(NODE, "launcher")
    with pytest.raises(BenchError, match=r"needs submitit, .* pip install 'lfpm-bench\[slurm\]'"):
        next(launcher(TWO_CELLS, Store(tmp_path), Silent()))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"needs sbatch, srun, squeue on the PATH"):
        queue.check_present()


def test_the_queue_is_read_as_squeue_prints_it(monkeypatch):
    lines = (
        "7_0|RUNNING|None|n1\n7_1|PENDING|Priority|\n7_2|COMPLETED|None|n1\n9|CANCELLED|None|\n"
        "11|REQUEUED|None|n2\n"
    )
    monkeypatch.setattr(queue, "_ask", lambda words: lines)
    assert queue.states() == {
        "7_0": "RUNNING on n1", "7_1": "PENDING (Priority)", "7_2": "COMPLETED", "9": "CANCELLED",
        "11": "REQUEUED",
    }  # fmt: skip
    assert queue.living(["7_0", "7_1", "7_2", "9", "11", "12"]) == {"7_0", "7_1", "11"}
    monkeypatch.setattr(queue, "_ask", lambda words: None)
    assert queue.living(["7_0"]) is None


def test_status_names_the_task_that_has_a_cell(tmp_path, monkeypatch):
    plan = config.plan(["-m", "attack=badnets", "defense=none,ft", *WORDS, f"store={tmp_path}"])
    assert plan is not None
    first, second = cells = [cell_from(one) for one in plan.configs]
    store, graph = Store(tmp_path), Graph(Store(tmp_path))
    for cell in cells:
        plan_cell(graph, cell)
    parts = shares(graph.jobs, 1)
    keys = [[job.key for job in part] for part in (parts.common, parts.common, *parts.own)]
    tasks = dict(zip(["7_0", "7_1", "8_0", "8_1"], keys, strict=True))
    made = Submission(submissions.opened(store), tasks)
    submissions.write(made)

    def told(**states: str) -> dict[str, str]:
        said = {task.removeprefix("t"): state for task, state in states.items()}
        monkeypatch.setattr(queue, "states", lambda: said)
        return whereabouts(cells, store)

    early = told(t7_0="RUNNING on n1", t7_1="RUNNING on n2", t8_0="PENDING (Dependency)",
                 t8_1="PENDING (Dependency)")  # fmt: skip
    assert early[first.key].startswith("Slurm task 7_")
    assert "RUNNING on n" in early[first.key]
    assert early[second.key] == f"Slurm task 8_1 PENDING (Dependency); log {made.log('8_1')}"
    late = told(t7_0="COMPLETED", t7_1="COMPLETED", t8_0="RUNNING on n1", t8_1="CANCELLED")
    assert late == {first.key: f"Slurm task 8_0 RUNNING on n1; log {made.log('8_0')}"}
    monkeypatch.setattr(queue, "states", lambda: None)
    assert whereabouts(cells, store) == {}
