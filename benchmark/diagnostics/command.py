"""`lfpm-bench diagnose`: from the words of one cell to a folder of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import join
from typing import Any

from benchmark import config, pipeline
from benchmark.cell import Cell, cell_from
from benchmark.cli import report, say
from benchmark.components import build
from benchmark.diagnostics.figures import drawings
from benchmark.diagnostics.findings import Findings
from benchmark.diagnostics.settings import Diagnosis, words_beside
from benchmark.display import display
from benchmark.drawing import LINES, STYLE, standalone
from benchmark.errors import BenchError
from benchmark.provenance import provenance
from benchmark.records import Record
from benchmark.store import Store, write_atomic


def diagnose(words: Sequence[str], out: Path) -> int:
    """Look at one cell: linearity per layer, mined prompts, CA and ASR along its line.

    Its stages, and those of the cells drawn beside it, are computed where they are missing.

    Args:
        words: a Hydra command line that names one cell.
        out: folder for JSON, CSV and pictures.

    Returns:
        0, or 1 if a cell failed or there is no model to look at.
    """
    plan = config.plan(words)
    if plan is None:
        return 0
    if len(plan.configs) != 1:
        raise BenchError(f"{join(words)} names {len(plan.configs)} cells; give one")
    settings: Diagnosis = build(plan.runtime["diagnosis"], "diagnosis")
    store, launcher = Store(plan.runtime["store"]), plan.runtime["launcher"]
    cells = _cells(words, plan.configs[0], settings)
    summary = pipeline.run(list(cells.values()), store, launcher, display)
    code = report(summary, store)
    found = dict(zip(cells, summary.records, strict=True))
    own, record = next(iter(found.items()))
    if record.main is None:
        say(f"nothing to look at: {own} has no model")
        return 1
    # Where the store is says nothing about the cell, and may be private.
    told = [word for word in words if not word.startswith("store=")]
    command = join(["lfpm-bench", "diagnose", *told])
    try:
        findings = _look(cells[own], store, launcher, settings, found, command, out)
        for one in drawings(findings):
            drawn = standalone(one.svg, STYLE + LINES)
            write_atomic(out / f"{one.name}.svg", drawn.encode())
    except OSError as error:
        raise BenchError(
            f"--out={out} cannot be written ({error.strerror}); give another folder"
        ) from error
    say(f"diagnosis: {out.resolve()}")
    return code


def _cells(words: Sequence[str], node: Mapping[str, Any], settings: Diagnosis) -> dict[str, Cell]:
    """Label -> cell: the one asked for, then those beside it that differ from all before."""
    chosen = node["names"]["defense"]
    cells = {chosen: cell_from(node)}
    for other in settings.beside:
        plan = config.plan(words_beside(words, chosen, other))
        if plan is None or len(plan.configs) != 1:
            raise BenchError(f"diagnosis.beside: {join(other.words)} does not name one cell")
        cell = cell_from(plan.configs[0])
        if cell.key in {one.key for one in cells.values()}:
            continue
        if other.label in cells:
            raise BenchError(f"diagnosis.beside: two cells are called '{other.label}'; rename one")
        cells[other.label] = cell
    return cells


def _look(
    cell: Cell,
    store: Store,
    launcher: Mapping[str, Any],
    settings: Diagnosis,
    found: Mapping[str, Record],
    command: str,
    out: Path,
) -> Findings:
    import torch

    from benchmark.bench import Bench
    from benchmark.diagnostics.measure import diagnose as measured

    torch.set_num_threads(launcher["threads"])
    made = provenance(launcher["threads"], launcher["device"])
    bench = Bench(cell, Store(store.root, made), launcher["device"])
    return measured(bench, settings, found, command, out)
