"""launcher=slurm on a real Slurm: cells that raise and die, scancel, time limits, lost nodes."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark.records import Record, read_all
from tests.slurm.conftest import SLURM, Bench
from tests.small import ATTACKS, WORDS

pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.timeout(900)]
SIDES = 3
"""A merge is called for the clean experts, the attacked ones, and without the attacker."""


def records(bench: Bench) -> dict[str, Record]:
    return {one.key: one for one in read_all((bench.store / "records").glob("*.json"))}


def trouble(bench: Bench) -> dict[str, Record]:
    """The records of cells with the merge `trouble`, by what it was told."""
    found = [one for one in records(bench).values() if one.names["merge"] == "trouble"]
    return {f"{one.config['merge']['kind']} {one.config['merge']['tag']}": one for one in found}


def submitted(text: str) -> list[str]:
    """The numbers of the arrays that a run says it submitted."""
    return re.findall(r"\d+", re.findall(r"submitted Slurm arrays? ([\d and]+):", text)[-1])


def until(true: Callable[[], object], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)


def running(cluster) -> dict[str, str]:
    """Task -> node of those that run."""
    lines = cluster.ask("squeue", "-h", "-r", "-t", "R", "-o", "%i %N").splitlines()
    return dict(line.split() for line in lines)


def ours(cluster) -> list[int]:
    """Our own processes below the cluster that still run."""
    return [pid for pid in cluster.left() if b"benchmark" in command_line(pid)]


def command_line(pid: int) -> bytes:
    """Empty if the process has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_plain_sweep_gives_the_records_of_an_inline_run(inline, empty, cluster):
    done = empty.run(*empty.sweep("merge=task_arithmetic,ties", *SLURM))
    assert done.returncode == 0, done.stderr
    found, wanted = records(empty), records(inline)
    assert len(found) == 2
    assert {k: one.identity_part() for k, one in found.items()} == {
        k: one.identity_part() for k, one in wanted.items()
    }
    # What both cells wait for went first, to two tasks together, then a task for each cell.
    first, second = submitted(done.stderr)
    states = cluster.ask("sacct", "-n", "-X", "-P", "-j", f"{first},{second}", "-o", "JobID,State")
    assert sorted(states.splitlines()) == [
        f"{number}_{index}|COMPLETED" for number in (first, second) for index in (0, 1)
    ]
    again = empty.run(*empty.sweep("merge=task_arithmetic,ties", *SLURM))
    assert "2 of 2 cells done, 0 computed now" in again.stderr
    assert "submitted" not in again.stderr


def test_a_raising_cell_and_one_that_dies_hard_cost_one_cell_each(bench):
    words = bench.sweep("merge=trouble", "merge.kind=none,raise,die", *SLURM)
    done = bench.run(*words)
    assert done.returncode == 1, done.stderr
    found = trouble(bench)
    assert {name: one.status for name, one in found.items()} == {
        "none 0": "done",
        "raise 0": "failed",
        "die 0": "failed",
    }
    assert "RuntimeError: it was told to raise" in (found["raise 0"].reason or "")
    assert "its process died (exit code 3)" in (found["die 0"].reason or "")
    logs = [path.read_text() for path in (bench.store / "logs").glob("*.log")]
    assert any("RuntimeError: it was told to raise" in text for text in logs)


def test_ctrl_c_leaves_the_array_and_scancel_costs_one_cell(bench, cluster):
    cells = ["merge.seconds=500", *WORDS, *ATTACKS]
    words = ["run", "-m", "experiment=trouble", *cells, *SLURM]
    first = bench.start(*words)
    until(lambda: "sleep 0" in bench.called() and "none 0" in bench.called())
    first.send_signal(signal.SIGINT)
    left = bench.finish(first)
    assert left.returncode == 130
    (array,) = set(submitted(left.stderr))
    assert f"`scancel {array}` ends it" in left.stderr
    node = running(cluster)[f"{array}_0"]
    status = bench.run("status", "trouble", *cells)
    (log,) = bench.store.glob(f"slurm/*/{array}_0_0_log.err")
    assert f"; Slurm task {array}_0 RUNNING on {node}; log {log}" in status.stdout
    # The same command finds it again and submits nothing.
    second = bench.start(*words)
    until(lambda: (bench.store / "records").exists() and "none 0" in trouble(bench))
    cluster.ask("scancel", f"{array}_0")
    done = bench.finish(second)
    assert f"Slurm array {array} is at it already" in done.stderr
    assert "submitted" not in done.stderr
    found = trouble(bench)
    assert found["none 0"].status == "done"
    assert found["sleep 0"].status == "failed"
    assert re.search(
        rf"Slurm task {array}_0 did not compute it: it ended as CANCELLED by",
        str(found["sleep 0"].reason),
    )
    assert done.returncode == 1


def logs(bench: Bench, task: str) -> str:
    """What a task has printed, in all its attempts."""
    return "".join(path.read_text() for path in bench.store.glob(f"slurm/*/{task}_0_log.*"))


def test_a_task_told_that_time_is_up_is_queued_again_and_goes_on_where_it_was(bench, cluster):
    extra = ["merge.kind=sleep", "merge.seconds=15", "launcher.together=1"]
    process = bench.start(*bench.sweep("merge=trouble", *SLURM, *extra))
    until(lambda: len(bench.called()) == 2)  # of the three merges one is done and one is running
    (task,) = running(cluster)
    cluster.ask("scancel", "--signal=USR2", task)  # as Slurm does before the limit
    done = bench.finish(process)
    assert done.returncode == 0, done.stderr
    (record,) = trouble(bench).values()
    assert record.status == "done"
    assert logs(bench, task).count("Requeued job") == 1
    # Only the merge that was running is begun again, and no worker's death was taken for a cell's.
    assert len(bench.called()) == SIDES + 1
    assert not list(bench.store.glob("slurm/*/lost/*"))
    states = cluster.ask("sacct", "-n", "-X", "-P", "-D", "-j", task, "-o", "State")
    assert states.splitlines() == ["REQUEUED", "COMPLETED"]


def test_a_task_that_never_fits_is_tried_as_often_as_asked_and_says_why(bench):
    extra = ["merge.kind=sleep", "merge.seconds=500", "launcher.time_min=2"]
    extra += ["launcher.timeouts=1", "launcher.together=1"]
    done = bench.run(*bench.sweep("merge=trouble", *SLURM, *extra))
    assert done.returncode == 1
    (task,) = submitted(done.stderr)
    assert logs(bench, task).count("Requeued job") == 1
    (record,) = trouble(bench).values()
    assert "out of time too often; raise launcher.time_min" in (record.reason or "")


def test_a_node_that_is_lost_costs_no_cell(bench, cluster):
    words = ["merge=trouble", "merge.kind=sleep", "merge.seconds=15", "merge.tag=1,2", *SLURM]
    process = bench.start(*bench.sweep(*words, "launcher.cpus=2"))
    until(lambda: len(bench.called()) >= 2 and set(running(cluster).values()) == {"n1", "n2"})
    lost = next(task for task, node in running(cluster).items() if node == "n1")
    cluster.lose("n1")
    done = bench.finish(process)
    cluster.restore("n1")
    assert done.returncode == 0, done.stderr
    assert {name: one.status for name, one in trouble(bench).items()} == {
        "sleep 1": "done",
        "sleep 2": "done",
    }
    nodes = cluster.ask("sacct", "-n", "-X", "-P", "-D", "-j", lost, "-o", "NodeList,State")
    assert nodes.splitlines() == ["n1|NODE_FAIL", "n2|COMPLETED"]


def test_a_task_that_makes_room_for_another_is_queued_again(bench, cluster):
    words = ["merge=trouble", "merge.kind=sleep", "merge.seconds=10", "merge.tag=1,2", *SLURM]
    process = bench.start(*bench.sweep(*words))
    until(lambda: len(bench.called()) >= 2)
    cluster.ask(
        "sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5"
    )
    done = bench.finish(process)
    assert done.returncode == 0, done.stderr
    assert {one.status for one in trouble(bench).values()} == {"done"}
    (array,) = submitted(done.stderr)
    states = cluster.ask("sacct", "-n", "-X", "-P", "-D", "-j", array, "-o", "State").splitlines()
    assert sorted(states) == ["COMPLETED", "COMPLETED", "PREEMPTED", "PREEMPTED"]


def test_another_machine_may_work_on_the_same_sweep(bench):
    words = ["merge=trouble", "merge.kind=sleep", "merge.seconds=2", "merge.tag=1,2,3,4"]
    here = bench.start(*bench.sweep(*words, "launcher=local", "launcher.processes=1"))
    there = bench.start(*bench.sweep(*words, *SLURM))
    for done in (bench.finish(here), bench.finish(there)):
        assert done.returncode == 0, done.stderr
        assert "4 of 4 cells done" in done.stderr
    assert sorted(bench.called()) == sorted(f"sleep {tag}" for tag in (1, 2, 3, 4) * SIDES)


def test_what_the_cluster_refuses_is_one_sentence(bench):
    done = bench.run(*bench.sweep("merge=trouble", *SLURM, "launcher.partition=nowhere"))
    assert done.returncode == 2
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("error:")]
    assert "sbatch refused the array" in line
    assert "invalid partition specified: nowhere" in line
    assert "Traceback" not in done.stderr


def test_without_accounting_or_queue_results_still_count(bench, cluster, tmp_path):
    """A squeue that does not answer is no reason to give a task up."""
    flaky = tmp_path / "bin"
    flaky.mkdir()
    for name in ("squeue", "sacct"):
        script = flaky / name
        script.write_text(
            f'#!/bin/sh\n[ -e {tmp_path}/down ] && exit 1\nexec /usr/bin/{name} "$@"\n'
        )
        script.chmod(0o755)
    bench.environment["PATH"] = f"{flaky}:{bench.environment['PATH']}"
    words = ["merge=trouble", "merge.kind=sleep", "merge.seconds=3", *SLURM]
    process = bench.start(*bench.sweep(*words))
    until(lambda: bench.called())
    (tmp_path / "down").touch()
    done = bench.finish(process)
    assert done.returncode == 0, done.stderr


def test_nothing_of_a_sweep_is_left(cluster):
    """Slurm takes seconds to complete a cancelled task, and so does a fork server to end."""
    until(lambda: cluster.ask("squeue", "-h") == "" and not ours(cluster), 60)
