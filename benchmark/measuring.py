"""A cell's models, measured: each alone, and the line from undefended to defended."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmark.curve import measure_line
from benchmark.evaluation import TestSet, evaluate, pack
from benchmark.measured import measured_rows
from benchmark.store import Artifact

if TYPE_CHECKING:
    from benchmark.bench import Bench
    from benchmark.models.encoder import Encoder


def measure(bench: Bench, subject: str) -> Artifact:
    """Packed hits and counts of one of `cell.subjects()`.

    The victims' images are all measured; of other tasks as many as the suite says.
    """
    suite, victims = bench.cell.suite, dict(bench.cell.victims)
    measured = bench.stressed(subject)
    tests = {
        task: _images(bench, task, None if task in victims else suite.clean_images)
        for task in bench.cell.evaluated_tasks(subject)
    }
    counts, hits = evaluate(
        _encoder(bench),
        measured.model.encoder,
        tests,
        measured.threats,
        adapters=measured.model.adapters,
        flip_images=suite.flip_images,
        progress=bench.progress,
    )
    return pack(hits), asdict(counts)


def measure_curve(bench: Bench) -> Artifact:
    """Packed hits and counts of every point of the suite's curve, on its curve images."""
    suite = bench.cell.suite
    ends = bench.model("undefended"), bench.model("main")
    tests = {task: _images(bench, task, suite.curve_images) for task in suite.tasks}
    threats = bench.compromise().threats
    points, hits = measure_line(
        _encoder(bench), ends, suite.curve, tests, threats, progress=bench.progress
    )
    return pack(hits), {"points": [asdict(point) for point in points]}


def _encoder(bench: Bench) -> Encoder:
    """The encoder at the precision at which the suite measures."""
    precision = bench.cell.suite.precision
    return bench.encoder if precision is None else bench.encoder.at(precision)


def _images(bench: Bench, task: str, count: int | None) -> TestSet:
    """The first `count` (None: all) of the images that models are measured on."""
    images, labels = bench.split(task, bench.cell.suite.evaluate)
    taken = measured_rows(bench.cell, task, len(images))[:count]
    return TestSet(images[taken], labels[taken], bench.head(task))
