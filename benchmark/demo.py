"""What `lfpm-bench demo` shows and writes once its records are there."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import tables
from benchmark.cell import Cell
from benchmark.diagnostics.findings import find
from benchmark.errors import BenchError
from benchmark.records import Record
from benchmark.report import Page, write_report
from benchmark.store import Store, key_of

if TYPE_CHECKING:
    from numpy import ndarray

SHOWN = 6  # images per trigger in the report
FORMS = ("md", "csv", "json")


def show(cells: Sequence[Cell], records: Sequence[Record], store: Store, out: Path) -> None:
    """Print the table and three lines on how to read it; write md, csv, json and an HTML page.

    Args:
        cells: what was run.
        records: their records.
        store: where the triggers are.
        out: the folder to write to.
    """
    table = tables.make("demo", records)
    sys.stdout.write(tables.render(table, "md") + "\n")
    sys.stdout.write("\n".join(tables.reading(table.rows)) + "\n")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tables.write(table, out, FORMS)
        seen = find(out / "diagnostics")
        page = Page([table], list(pictures(cells, store)), provenance(records), diagnoses=seen)
        path = write_report(out / "report.html", page)
    except OSError as error:
        raise BenchError(
            f"--out={out} cannot be written ({error.strerror}); give another folder"
        ) from error
    sys.stderr.write(f"report: {path.resolve()}\n")


def provenance(records: Sequence[Record]) -> Mapping[str, Any]:
    """The provenance of the records' evaluations that all of them share."""
    made = [record.provenance for record in records if record.provenance]
    if not made:
        return {}
    return {
        name: value for name, value in made[0].items() if all(m.get(name) == value for m in made)
    }


def pictures(cells: Sequence[Cell], store: Store) -> Iterator[tuple[str, ndarray]]:
    """(caption, strip (H,W,3) uint8) per distinct attack: test images above, triggered below."""
    import torch

    from benchmark.artifacts import load_compromise

    attacks = {key_of(*cell.compromise()): cell for cell in cells}
    for key, cell in attacks.items():
        found = store.load("attack", key)
        if found is None:
            continue
        for threat in load_compromise(*found, key).threats:
            data = store.load("data", key_of(*cell.data(threat.task, "test")))
            if data is None:
                continue
            images = data[0]["images"][:SHOWN].float() / 255
            rows = [torch.cat(list(row), dim=2) for row in (images, threat.trigger(images))]
            strip = (torch.cat(rows, dim=1) * 255).round().byte().permute(1, 2, 0).numpy()
            classname = cell.datasets[threat.task].classnames[threat.target]
            who = "planted by" if threat.attackers else "reference trigger on"
            yield (
                f"{cell.names['attack']} ({who} {threat.task}, seed {cell.seed}): "
                f"below, what should be taken for '{classname}'",
                strip,
            )
