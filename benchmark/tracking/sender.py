"""Sends finished records and tables to W&B, each content once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmark.records import Record, to_json
from benchmark.store import Store, canonical
from benchmark.tables import Table
from benchmark.tracking.entry import Entry, cell_entry, table_entry, title
from benchmark.tracking.ledger import Ledger, digest, note
from benchmark.tracking.material import curves, pictures
from benchmark.tracking.settings import Destination


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one run: sent now, sent before with the same content, or why not."""

    name: str
    state: Literal["sent", "known", "failed"]
    place: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Sender:
    """Sends to one destination.

    Attributes:
        root: the store's folder; its ledger says what has been sent.
        to: where runs go.
        group: of the runs; None: the suite's name, the table's name.
        pictures: whether triggers and mined prompts are shown, too.
        again: send what has been sent, too.
    """

    root: Path
    to: Destination
    group: str | None
    pictures: bool = True
    again: bool = False

    def cell(self, record: Record) -> Sent:
        """Send a record of any status with what the store has beside it."""

        def write() -> str:
            from benchmark.tracking.wandb_run import write_run

            store = Store(self.root)
            entry = cell_entry(record, curves(record, store), self.group)
            shown = pictures(record, store) if self.pictures and not entry.failed else {}
            return write_run(entry, shown, self.to, self.root)

        return self._once(record.key, title(record), to_json(record), write)

    def table(self, table: Table, words: Sequence[str]) -> Sent:
        """Send the table of the cells that these words name, beside its experiment's."""
        entry = table_entry(table, words, self.group)

        def write() -> str:
            from benchmark.tracking.wandb_run import write_run

            return write_run(entry, {}, self.to, self.root)

        return self._once(entry.id, entry.name, _content(entry), write)

    def _once(self, run: str, name: str, content: str, write: Callable[[], str]) -> Sent:
        """Write unless this content is there; whatever goes wrong is the answer, never raised."""
        try:
            with Ledger(self.root).of(run) as notes:
                before = notes.get(self.to.name, {})
                if before.get("digest") == digest(content) and not self.again:
                    return Sent(name, "known", before.get("place"))
                place = write()
                notes[self.to.name] = note(content, place)
                return Sent(name, "sent", place)
        except Exception as error:
            said = (str(error).strip() or "no reason was given").splitlines()[0]
            return Sent(name, "failed", reason=f"{type(error).__name__}: {said}")


def _content(entry: Entry) -> str:
    grids = {name: [grid.columns, grid.rows] for name, grid in entry.grids.items()}
    return canonical([grids, dict(entry.pages)])
