"""How long a run will still take, from what its jobs took so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from benchmark.costs import Costs
from benchmark.jobs import Job

LEAST = 0.2  # share of its estimate that a job is still given when it has outrun it


class Clock:
    """The jobs of a run that have not ended, and what they may cost.

    Args:
        jobs: by key, each after those it waits for.
        costs: what jobs like these took; grows as jobs end.
        width: how many run at once.
        now: the time in seconds.
        made: the seconds that a job took which was computed elsewhere: by a Slurm task, by another
            run on the store; None where nobody knows.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job],
        costs: Costs,
        width: int,
        now: Callable[[], float] = time.monotonic,
        made: Callable[[Job], float | None] = lambda job: None,
    ) -> None:
        self.total = len(jobs)
        self.ended = 0
        self._open = dict(jobs)
        self._begun: dict[str, float] = {}
        self._costs, self._width, self._now, self._made = costs, width, now, made

    def start(self, job: Job) -> None:
        """A job was given a process."""
        self._begun[job.key] = self._now()

    def end(self, job: Job, *, done: bool) -> float | None:
        """A job ended; the seconds it took, None if nobody knows."""
        self.ended += 1
        self._open.pop(job.key, None)
        begun = self._begun.pop(job.key, None)
        spent = None
        if begun is not None:
            spent = self._now() - begun
        elif done:
            spent = self._made(job)
        if done and spent is not None:
            self._costs.learn(job.kinds, spent)
        return spent

    def left(self) -> tuple[float, int]:
        """Seconds to go, and how many open jobs are of a kind that nobody has measured.

        The seconds are those of the work over all processes, or of the longest chain of jobs that
        wait for each other, if that is more. Unmeasured jobs count as nothing, so with any of them
        the seconds are a lower bound.
        """
        work, unknown, until = 0.0, 0, dict[str, float]()
        for key, job in self._open.items():
            cost = self._costs.seconds(job.kinds)
            unknown += cost is None
            cost = self._remaining(key, cost or 0.0)
            work += cost
            until[key] = cost + max((until.get(one, 0.0) for one in job.after), default=0.0)
        return max(work / self._width, max(until.values(), default=0.0)), unknown

    def _remaining(self, key: str, cost: float) -> float:
        if key not in self._begun:
            return cost
        return max(cost - (self._now() - self._begun[key]), LEAST * cost)

    def told(self) -> str:
        """The time to go in words, and how many at once it supposes; empty if nothing is known."""
        seconds, unknown = self.left()
        if not seconds:
            return ""
        at_once = f", {self._width} at once" if self._width > 1 else ""
        return f"{'more than' if unknown else 'about'} {duration(seconds)} left{at_once}"


def duration(seconds: float) -> str:
    """A length of time for people: 40 s, 12 min, 3 h 20 min, 2 d 5 h."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
