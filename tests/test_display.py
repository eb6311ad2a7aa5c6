"""What somebody sees who waits: bars with the time to go, lines in a log, `status --watch`."""

from __future__ import annotations

import io
import re
import sys

import pytest

from benchmark import display, watching
from benchmark.clock import Clock
from benchmark.costs import Costs
from benchmark.jobs import Job
from benchmark.launching import Outcome


class Screen(io.StringIO):
    """A terminal that remembers what was written to it."""

    def isatty(self) -> bool:
        return True

    def told(self) -> list[str]:
        """The lines that were written, without colours and cursor movements."""
        plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue())
        return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


class Time:
    """A clock that moves when it is told to, or when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def strftime(self, form: str) -> str:
        return f"{self.now:.0f} s"


@pytest.fixture
def time(monkeypatch) -> Time:
    found = Time()
    monkeypatch.setattr(display, "time", found)
    monkeypatch.setattr(watching, "time", found)
    return found


def terminal(monkeypatch) -> Screen:
    """Make standard output and error a terminal; for the test's body, which pytest captures."""
    for name, value in (("TERM", "xterm"), ("COLUMNS", "150"), ("LINES", "40")):
        monkeypatch.setenv(name, value)
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def job(key: str, kind: str) -> Job:
    return Job(key, "s", f"job {key}", (), {}, frozenset(), kinds=(kind,))


JOBS = {one.key: one for one in (job("a", "long"), job("b", "short"), job("c", "short"))}


def clock(time: Time) -> Clock:
    past = Costs()
    past.learn(("long",), 600)
    return Clock(JOBS, past, 1, time.monotonic)


def last(screen: Screen, start: str) -> str:
    return [line for line in screen.told() if line.startswith(start)][-1]


def test_bars_show_what_runs_how_far_it_is_and_the_time_to_go(monkeypatch, time):
    screen = terminal(monkeypatch)
    shown = display.display("3 cells", clock(time))
    assert isinstance(shown, display.Terminal)
    with shown:
        shown.started(JOBS["a"])
        shown.progressed(JOBS["a"], 7, 20)
        shown.bars.refresh()
        assert re.search(r"0/3 .*more than 10 min left$", last(screen, "3 cells"))
        assert "7/20" in last(screen, "job a")
        time.now = 300.0
        shown.progressed(JOBS["a"], 10, 20)
        shown.bars.refresh()
        assert re.search(r"0/3 .*more than 5 min left$", last(screen, "3 cells"))
        shown.ended(Outcome(JOBS["a"], "done"))
        shown.started(JOBS["b"])
        time.now = 420.0
        shown.noted(JOBS["b"], "it [wavers]")
        shown.ended(Outcome(JOBS["b"], "done"))
        shown.bars.refresh()
        assert re.search(r"2/3 .*about 2 min left$", last(screen, "3 cells"))
        assert "job b: it [wavers]" in screen.told()
        shown.ended(Outcome(JOBS["c"], "failed", "it broke"))
        assert "job c: failed: it broke" in screen.told()
        shown.bars.refresh()
        assert "3/3" in last(screen, "3 cells")
        assert shown.running == {}


def test_a_log_has_a_line_per_job_and_now_and_then_the_time_to_go(capsys, time):
    shown = display.display("3 cells", clock(time))
    assert isinstance(shown, display.Lines)
    with shown:
        shown.started(JOBS["a"])
        shown.started(JOBS["b"])
        time.now = 50.0
        shown.progressed(JOBS["b"], 1, 2)
        shown.ended(Outcome(JOBS["b"], "done"))
        time.now = 70.0
        shown.ended(Outcome(JOBS["a"], "failed", "it broke"))
        shown.ended(Outcome(JOBS["c"], "done"))
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] job b 50.0 s",
        "[2/3] job a 70.0 s failed: it broke",
        "[2/3] about 50 s left",
        "[3/3] job c",
    ]


def counts(**found: int) -> dict:
    names = ("done", "skipped", "failed", *watching.OPEN)
    return {"counts": {name: found.get(name, 0) for name in names}}


COURSE = [counts(missing=2), counts(running=1, missing=1), counts(running=1, missing=1),
          counts(done=1, stale=1), counts(done=1, failed=1)]  # fmt: skip


def text(report) -> str:
    return f"{report['counts']['done']} done\nand more"


def test_watching_ends_with_the_last_open_cell_and_looks_no_more_than_a_tenth_of_the_time(time):
    course, took = iter(COURSE), iter([0.0, 0.1, 2.0, 0.0, 9.0])

    def look():
        time.now += next(took)
        return next(course)

    assert list(watching.reports(look, time.sleep)) == COURSE
    assert time.slept == [watching.EVERY, watching.EVERY, pytest.approx(20.0), watching.EVERY]


def test_in_a_pipe_there_is_a_line_when_counts_change(capsys, time):
    course = iter(COURSE)
    watching.watch(lambda: next(course), text)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["0 s 0 done", "5 s 0 done", "15 s 1 done", "20 s 1 done"]


def test_on_a_terminal_it_is_shown_in_place(monkeypatch, time):
    screen = terminal(monkeypatch)
    course = iter(COURSE)
    watching.watch(lambda: next(course), text)
    told = screen.told()
    assert told.count("20 s, Ctrl-C ends watching only") >= 1
    seen = [line for line in told if line.endswith("done")]
    assert (seen[0], seen[-1]) == ("0 done", "1 done")
    assert "\x1b[" in screen.getvalue(), "the cursor goes back up"
