"""A suite on this machine: do its cells build, are its weights and images here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmark.cell import Cell
from benchmark.doctor.findings import Finding, error, ok, warning
from benchmark.errors import BenchError
from benchmark.models.weights import HUB, PACKAGE, stated_activation


def base(cell: Cell) -> Iterator[Finding]:
    """Whether the base weights are here, and whether anybody says what activation they need."""
    backbone = cell.backbone
    if backbone.weights is None:
        yield ok("backbone.weights=null: made by the pre-training stage")
        return
    try:
        digest = backbone.weights_sha256()
    except BenchError as problem:
        what, _, fix = str(problem).partition("; ")
        yield error(what, fix)
        return
    yield ok(f"base weights {backbone.weights} (sha256 {str(digest)[:12]})")
    path, name = backbone.path(), backbone.name or "a model of our own"
    activation = "QuickGELU" if backbone.quick_gelu else "GELU"
    if backbone.weights.startswith((PACKAGE, HUB)):
        yield ok(f"activation {activation} ({name})")
    elif (said := stated_activation(path)) is not None:
        yield ok(f"activation {activation}; {path.name} says {said}")
    else:
        yield warning(
            f"activation {activation} ({name}), but {path.name} does not say which one it needs",
            "compare with known numbers: lfpm-bench doctor --zero-shot and the same words",
        )


def images(cells: Sequence[Cell]) -> Iterator[Finding]:
    """Whether every task's images are here, decoded and as many as they must be."""
    known = {task: data for cell in cells for task, data in cell.datasets.items()}
    drawn = [task for task, data in known.items() if not hasattr(data, "absent")]
    if drawn:
        yield ok(f"{', '.join(drawn)}: drawn by this package when needed")
    for task, data in known.items():
        if task in drawn:
            continue
        if (reason := data.absent()) is not None:
            what, _, fix = reason.rpartition(": ")
            # Dead sources, terms to accept, files to put together by hand.
            told = f"{fix}. {data.help}" if data.help and data.source() is None else fix
            yield error(f"data set {what}", told)
            continue
        try:
            counts = {name: split.images for name, split in data.index.splits.items()}
        except BenchError as problem:
            yield error(str(problem), f"lfpm-bench data verify {task}")
        else:
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            yield ok(f"data set {task}: {said}")
