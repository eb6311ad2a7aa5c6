"""The options of `conf/tracker`: where finished records are shown. Neither torch nor wandb."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, Protocol, cast, get_args

from benchmark.components import build, component, options
from benchmark.data.fetch import offline
from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.store import Store

Mode = Literal["offline", "online", "disabled"]
Tell = Callable[[Record], None]
"""Called with every record of a run as soon as it is whole, finished ones first; never blocks."""
PROJECT = "lfpm-bench"
INSTALL = "pip install 'lfpm-bench[wandb]'"


class Tracker(Protocol):
    """Shows the records of a run."""

    version: ClassVar[int]

    def opened(self, store: Store, words: Sequence[str]) -> AbstractContextManager[Tell]:
        """Show records until the block ends.

        Raises BenchError on entering, before anything is computed, if that cannot work. Later no
        error leaves it: a record that could not be shown is told on standard error.

        Args:
            store: where the records are.
            words: the Hydra words of the run.
        """
        ...


@component
class Untracked:
    """Shows nothing."""

    version: ClassVar[int] = 1

    def opened(self, store: Store, words: Sequence[str]) -> AbstractContextManager[Tell]:
        """Nobody listens."""
        return nullcontext(ignore)


@component
class Wandb:
    """A Weights & Biases run per cell, and one for the table of the sweep.

    Attributes:
        mode: offline: into `<store>/wandb`, for `wandb sync`; online: to the server; disabled:
            nowhere. None: WANDB_MODE, or offline.
        project: None: WANDB_PROJECT, or "lfpm-bench".
        entity: a user or a team; None: WANDB_ENTITY, or the account's own.
        group: of the runs; None: the experiment's name, or the suite's.
        pictures: whether triggers and mined prompts are shown, too.
    """

    version: ClassVar[int] = 1
    mode: Mode | None
    project: str | None
    entity: str | None
    group: str | None
    pictures: bool

    def destination(self, default: Mode = "offline") -> Destination:
        """Where runs go, now that the environment has been asked; checked to be possible.

        `lfpm-bench --offline` goes before everything.
        """
        mode = self.mode or os.environ.get("WANDB_MODE") or default
        if mode not in get_args(Mode):
            raise BenchError(f"WANDB_MODE={mode} is not valid: say {', '.join(get_args(Mode))}")
        project = self.project or os.environ.get("WANDB_PROJECT") or PROJECT
        entity = self.entity or os.environ.get("WANDB_ENTITY") or None
        if mode == "online" and offline():
            mode = "offline"
        to = Destination(cast("Mode", mode), project, entity)
        to.check()
        return to

    @contextmanager
    def opened(self, store: Store, words: Sequence[str]) -> Iterator[Tell]:
        """A process beside the run sends what it is told of."""
        from benchmark.tracking.courier import Courier

        to = self.destination()
        if to.mode == "disabled":
            yield ignore
            return
        store.check_writable()
        experiment = experiment_of(words)
        with Courier(store.root, to, self.group or experiment, self.pictures) as courier:
            yield lambda record: courier.cell(record.key)
            if experiment in options("table"):
                courier.table(experiment, cell_words(words))


@dataclass(frozen=True)
class Destination:
    """Where runs go.

    Attributes:
        mode: offline, online or disabled.
        project: its name.
        entity: a user or a team, if named.
    """

    mode: Mode
    project: str
    entity: str | None

    @property
    def name(self) -> str:
        """How the ledger calls it, e.g. "online lab/lfpm-bench"."""
        server = os.environ.get("WANDB_BASE_URL") if self.mode == "online" else None
        project = f"{self.entity}/{self.project}" if self.entity else self.project
        return " ".join(part for part in (self.mode, server, project) if part)

    def check(self) -> None:
        """Raise one sentence if wandb is missing, or online nobody is logged in."""
        if self.mode == "disabled":
            return
        if find_spec("wandb") is None:
            raise BenchError(f"W&B needs the package wandb, which is not installed: {INSTALL}")
        if self.mode == "online":
            import wandb

            if not wandb.login(prompt=False, verify=False):
                raise BenchError(
                    "W&B online needs an account: run `wandb login` or set WANDB_API_KEY, "
                    "or add --offline to write offline runs"
                )


def tracker_from(node: Mapping[str, Any]) -> Tracker:
    """The tracker of a resolved config."""
    return build(node, "tracker")


def ignore(record: Record) -> None:
    """A `Tell` that shows nothing."""


def experiment_of(words: Sequence[str]) -> str | None:
    """The experiment that a command line names."""
    named = [word.removeprefix("experiment=") for word in words if word.startswith("experiment=")]
    return named[-1] if named and named[-1] != "null" else None


def cell_words(words: Sequence[str]) -> list[str]:
    """The words beside the experiment's that say which cells: not how, and not where."""
    how = ("-", "experiment=", "store=", "tracker", "launcher", "diagnosis")
    return [word for word in words if not word.startswith(how)]
