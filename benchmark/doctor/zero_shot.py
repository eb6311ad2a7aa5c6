"""Zero-shot accuracy of the base on the suite's tasks, beside known numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchmark.doctor.anchors import ANCHORS, Anchor
from benchmark.doctor.findings import Finding, error, ok, warning

if TYPE_CHECKING:
    from benchmark.bench import Bench
    from benchmark.cell import Cell
    from benchmark.records import Count

DEVIATIONS = 2.58
"""Of the sampling error that a right copy may be off: 99 %."""
BATCH = 250


def anchors_of(cell: Cell) -> dict[str, Anchor]:
    """The anchors of a cell's backbone; none where it is nobody's."""
    named = ANCHORS.get(cell.backbone.name or "", {})
    return named or ANCHORS.get(cell.backbone.weights or "", {})


def zero_shot(bench: Bench, limit: int | None) -> Iterator[Finding]:
    """One finding per task.

    Args:
        bench: of a cell whose weights and images are here.
        limit: how many of the first test images; None: all.
    """
    known = anchors_of(bench.cell)
    for task in bench.cell.suite.tasks:
        yield judged(task, measured(bench, task, limit), known.get(task))


def measured(bench: Bench, task: str, limit: int | None) -> Count:
    """Top-1 hits of the pre-trained model on the first test images of a task."""
    from benchmark.evaluation import TestSet, evaluate

    images, labels = bench.split(task, "test")
    test = TestSet(images[:limit], labels[:limit], bench.head(task))
    encoder, precision = bench.encoder, bench.cell.suite.precision
    encoder = encoder if precision is None else encoder.at(precision)
    counts, _ = evaluate(encoder, bench.base, {task: test}, [], flip_images=0, batch=BATCH)
    return counts.clean[task]


def judged(task: str, count: Count, anchor: Anchor | None) -> Finding:
    """Whether an accuracy is what it should be."""
    share = count.hits / count.total
    said = f"zero-shot {task}: {100 * share:.1f} % of {count.total}"
    if anchor is None:
        return warning(f"{said}, with nothing to compare it with", "none is published that we know")
    noise = 100 * DEVIATIONS * (share * (1 - share) / count.total) ** 0.5
    line = f"{said}; known {anchor.accuracy:.1f} ± {anchor.within:g} ({anchor.source})"
    if abs(100 * share - anchor.accuracy) <= anchor.within + noise:
        return ok(line)
    return error(
        line,
        "check the activation (backbone.name), class names and prompts (lfpm-bench ls datasets -v) "
        f"and the copy (lfpm-bench data verify {task})",
    )
