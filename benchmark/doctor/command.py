"""`lfpm-bench doctor`: all checks for the cells of some Hydra words."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark import config
from benchmark.cell import Cell, cell_from
from benchmark.doctor.findings import Finding, can_start, error, ok, told, warning
from benchmark.doctor.machine import machine, network, places
from benchmark.doctor.probe import probe
from benchmark.doctor.suite import base, images
from benchmark.errors import BenchError
from benchmark.estimate import Cost, images_on_disk, largest_split, needed, said

SLOW = 0.2
"""GPU-hours of one cell from which it is not worth starting on a processor (days)."""


def doctor(words: Sequence[str], *, zero_shot: bool, limit: int | None, as_json: bool) -> int:
    """Print what was found; 0 if a run can start, else 1."""
    findings = list(examined(words, zero_shot=zero_shot, limit=limit))
    sys.stdout.write(told(findings, as_json))
    return 0 if can_start(findings) else 1


def examined(words: Sequence[str], *, zero_shot: bool, limit: int | None) -> Iterator[Finding]:
    """Every finding; what cannot be looked at because of an earlier one is left out."""
    found = probe()
    try:
        plan = config.plan(words)
        if plan is None:
            raise BenchError("these words print something instead of naming cells")
        cells = [cell_from(one) for one in plan.configs]
    except BenchError as problem:
        yield from machine({}, found)
        yield error(f"the words do not make a run: {problem}", "correct them")
        return
    launcher, store = plan.runtime["launcher"], Path(plan.runtime["store"]).expanduser()
    yield from machine(launcher, found)
    yield from network()
    here = [*_bases(cells), *images(cells)]
    yield from here
    cost = sum((needed(cell) for cell in cells[:1]), Cost())
    missing = [c for c in cells[:1] if not can_start(list(images([c])))]
    yield from places(store, cost.disk, sum(images_on_disk(cell) for cell in missing))
    yield from _memory(cells[0], cost, found, str(launcher.get("device", "cpu")))
    if zero_shot and "error" not in found and can_start(here):
        yield from _zero_shot(cells[0], plan.runtime, limit)
    elif zero_shot:
        yield warning("zero-shot accuracy was not measured", "fix the errors first")


def _bases(cells: Sequence[Cell]) -> Iterator[Finding]:
    distinct = {(cell.backbone.weights, cell.backbone.name): cell for cell in cells}
    for cell in distinct.values():
        yield from base(cell)


def _memory(cell: Cell, cost: Cost, found: dict, device: str) -> Iterator[Finding]:
    """Whether one process fits, and what the first cell costs."""
    gib = 2**30
    devices = found.get("devices") or []
    if device.startswith("cuda") and devices:
        have, where = min(one["memory"] for one in devices), "GPU"
    else:
        have, where = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "memory"
    line = f"the first cell from an empty store: {said(cost)}"
    if cost.memory > 0.9 * have:
        task, images = largest_split(cell)
        fix = "backbone.micro_batch=16 (a third more computing), or backbone.precision=bfloat16"
        if images > have / 2:
            fix = (
                f"a machine with more, or suite.tasks without {task}, whose train images alone "
                f"take {images / gib:.0f} GiB"
            )
        yield error(f"{line}; {where} has {have / gib:.0f} GiB", fix)
    elif cost.seconds / 3600 > SLOW and not device.startswith("cuda"):
        yield warning(line, "use a GPU: launcher.device=cuda")
    else:
        yield ok(line)


def _zero_shot(cell: Cell, runtime: dict, limit: int | None) -> Iterator[Finding]:
    from benchmark.bench import Bench
    from benchmark.doctor.zero_shot import zero_shot
    from benchmark.store import Store

    launcher = runtime["launcher"]
    bench = Bench(cell, Store(runtime["store"]), launcher.get("device", "cpu"))
    try:
        yield from zero_shot(bench, limit)
    except BenchError as problem:
        yield error(f"zero-shot accuracy cannot be measured: {problem}", "fix this first")
