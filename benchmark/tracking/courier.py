"""A process beside a run that sends records as they become whole: W&B never holds up a cell."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmark.records import read
from benchmark.tracking.sender import Sender, Sent
from benchmark.tracking.settings import Destination

Errand = tuple[str, Any]
"""("cell", record's key) or ("table", (name, words))."""
WAIT = 0.5  # seconds between two looks at whether the process lives


class Courier:
    """Takes errands at any time; on leaving, waits for those that are open and says what came."""

    def __init__(self, root: Path, to: Destination, group: str | None, pictures: bool) -> None:
        self.sender = Sender(root, to, group, pictures)
        context = multiprocessing.get_context("spawn")
        self.errands, self.answers = context.Queue(), context.Queue()
        self.open = 0
        args = (self.sender, self.errands, self.answers)
        self.process = context.Process(target=_serve, args=args, daemon=True)

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def cell(self, key: str) -> None:
        """Send the record of this key."""
        self._give(("cell", key))

    def table(self, name: str, words: Sequence[str]) -> None:
        """Send the table of an experiment of the same name."""
        self._give(("table", (name, list(words))))

    def _give(self, errand: Errand) -> None:
        self.open += 1
        self.errands.put(errand)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.errands.put(None)
                say(summary(self._collected(), self.sender))
            else:  # nobody waits: what is not sent can be pushed
                self.process.kill()
        except BaseException:
            self.process.kill()
            raise
        finally:
            self.errands.cancel_join_thread()
            self.process.join()

    def _collected(self) -> list[Sent]:
        """The answers to all errands; the process may die on the way."""
        found: list[Sent] = []
        told = False
        while len(found) < self.open:
            try:
                answer = self.answers.get(timeout=WAIT)
            except queue.Empty:
                if self.process.is_alive():
                    told = told or self._wait(self.open - len(found))
                    continue
                how = f"the process that sends died (exit code {self.process.exitcode})"
                lost = Sent("", "failed", reason=how)
                return [*found, *[lost] * (self.open - len(found))]
            found.append(answer)
        return found

    def _wait(self, left: int) -> bool:
        say(f"W&B: {left} runs still to send; Ctrl-C leaves them to `lfpm-bench wandb push`")
        return True


def _serve(sender: Sender, errands: Any, answers: Any) -> None:
    """The other process: one errand after the other until None. Ctrl-C is the parent's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while (errand := errands.get()) is not None:
        answers.put(answer(sender, errand))


def answer(sender: Sender, errand: Errand) -> Sent:
    """Do one errand; nothing leaves it but its answer."""
    what, about = errand
    try:
        if what == "cell":
            return sender.cell(read(sender.root / "records" / f"{about}.json"))
        return _table(sender, *about)
    except Exception as error:
        said = (str(error).strip() or "no reason was given").splitlines()[0]
        return Sent(str(about), "failed", reason=f"{type(error).__name__}: {said}")


def _table(sender: Sender, name: str, words: Sequence[str]) -> Sent:
    from benchmark.results import table

    return sender.table(table(name, [*words, f"store={sender.root}"], [], partial=True), words)


def summary(found: Sequence[Sent], sender: Sender) -> str:
    """What became of all runs, in a few lines."""
    states = Counter(one.state for one in found)
    lines = [
        f"W&B: {states['sent']} runs sent ({sender.to.name}), {states['known']} were there, "
        f"{states['failed']} not sent"
    ]
    if states["sent"] and sender.to.mode == "offline":
        lines += [f"to upload them: wandb sync {sender.root / 'wandb' / 'offline-run-*'}"]
    reasons = Counter(one.reason for one in found if one.state == "failed")
    lines += [f"W&B: {count} not sent: {why}" for why, count in reasons.most_common()]
    if reasons:
        lines += ["the records are kept; `lfpm-bench wandb push` sends what is missing"]
    return "\n".join(lines)


def say(text: str) -> None:
    """Lines to standard error."""
    sys.stderr.write(f"{text}\n")
