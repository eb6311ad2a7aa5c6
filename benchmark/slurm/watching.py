"""Jobs in the hands of Slurm: which are, and how each ended, told from what the store has."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmark import claims, failures
from benchmark.errors import BadCheckpoint, BenchError
from benchmark.jobs import Job
from benchmark.launching import Display, Outcome, Schedule
from benchmark.slurm import queue, submissions
from benchmark.slurm.submissions import Submission
from benchmark.store import Store


def queued(store: Store) -> list[Submission]:
    """Earlier submissions, with those of their tasks that still are queued or running."""
    known = submissions.read_all(store)
    alive = queue.living(task for one in known for task in one.tasks)
    if alive is None:
        raise BenchError("squeue does not answer; try again when the cluster's controller is up")
    return [
        Submission(one.folder, {task: keys for task, keys in one.tasks.items() if task in alive})
        for one in known
    ]


def held(jobs: Mapping[str, Job], known: Sequence[Submission]) -> list[Submission]:
    """What queued tasks will compute of some jobs, each job in the last submission that has it.

    A job that was lost is not among it, nor one that waits for a job that is not.
    """
    owner = {}
    for number, one in enumerate(known):
        owner |= dict.fromkeys(one.keys(one.tasks) - one.lost().keys(), number)
    keys: set[str] = set()
    for key, job in jobs.items():
        if key in owner and job.after & jobs.keys() <= keys:
            keys.add(key)
    left = [
        {
            task: [key for key in given if key in keys and owner[key] == number]
            for task, given in one
        }
        for number, one in enumerate(one.tasks.items() for one in known)
    ]
    return [
        Submission(one.folder, {task: given for task, given in tasks.items() if given})
        for one, tasks in zip(known, left, strict=True)
        if any(tasks.values())
    ]


@dataclass
class Watch:
    """Jobs that have not ended, and the submissions that hold them.

    Attributes:
        open: by key, each after those it waits for; ended ones leave.
        submissions: every open job is in one of them.
        store: where results appear.
        grace_s: how long results of a task that is gone may take to show.
        gone: key -> when its last task was first seen to be gone.
    """

    open: dict[str, Job]
    submissions: Sequence[Submission]
    store: Store
    grace_s: float
    gone: dict[str, float] = field(default_factory=dict)

    def tasks(self) -> list[str]:
        """Every task that works for us."""
        return [task for one in self.submissions for task in one.tasks]

    def outcomes(self, display: Display, poll_s: float) -> Iterator[Outcome]:
        """Look again and again until every job has ended."""
        schedule = Schedule(self.open)
        while self.open:
            for found in self._news():
                if found.job.key in self.open:
                    for outcome in schedule.end(found):
                        del self.open[outcome.job.key]
                        display.ended(outcome)
                        yield outcome
            if self.open:
                time.sleep(poll_s)

    def _news(self) -> Iterator[Outcome]:
        # The queue is asked first: of what ended before that the results are in the store by now.
        alive = queue.living(self.tasks())
        done = self._done()
        found = [Outcome(job, "done") for key, job in self.open.items() if key in done]
        told = done | self._told(found, done)
        yield from found
        if alive is not None:
            yield from self._abandoned(alive, self.open.keys() - told)

    def _told(self, found: list[Outcome], done: set[str]) -> set[str]:
        """Append the losses that tasks have told of; returns their keys."""
        mine = {}
        for one in self.submissions:
            asked = one.keys(one.tasks) & self.open.keys() - done
            mine |= {key: note for key, note in one.lost().items() if key in asked}
        for key, note in mine.items():
            if note["status"] == "bad_input":
                raise BadCheckpoint(note["reason"])
            found.append(Outcome(self.open[key], **note))
        return set(mine)

    def _done(self) -> set[str]:
        """Keys whose artifacts are there. Listed: a shared folder may remember a name's absence."""
        folders = {self.store.path(job.stage, job.key).parent for job in self.open.values()}
        return {path.stem for folder in folders for path in folder.glob("*.json")}

    def _abandoned(self, alive: set[str], waiting: set[str]) -> Iterator[Outcome]:
        """Jobs of which no task is left, after the grace; those that it tried go on the ledger."""
        held = {key for one in self.submissions for key in one.keys(alive)}
        now = time.monotonic()
        self.gone = {key: self.gone.get(key, now) for key in waiting - held}
        late = [key for key in self.open if now - self.gone.get(key, now) > self.grace_s]
        tried = {one.key for one in claims.holders(self.store.claims)} if late else set()
        states: dict[str, str] = {}
        # In the plan's order: what others wait for first, so that these are lost with its reason.
        for key in late:
            if key not in self.open:
                continue  # lost in the meantime, with what it waits for
            one = next(one for one in self.submissions if key in one.keys(one.tasks))
            task = one.holder(key)
            # A task that has begun nothing failed at its first job; of the others nobody knows.
            first = task not in states and tried.isdisjoint(one.tasks[task])
            if task not in states:
                states[task] = one.reason(task) or f"it ended as {queue.last_state(task)}"
            reason = f"Slurm task {task} did not compute it: {states[task]}; log {one.log(task)}"
            if first or key in tried:
                failures.note(self.store, self.open[key], reason, seen=False)
            yield Outcome(self.open[key], "failed", reason)
