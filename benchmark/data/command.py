"""`lfpm-bench data`: status, fetch, decode, verify."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmark.components import build, option, options
from benchmark.data.real import Real
from benchmark.errors import BenchError, nearest

SIZE = 224
SHOWN = 3
"""Unreadable pictures that are named on the screen; a file names all."""


def published(size: int = SIZE) -> dict[str, Real]:
    """Every published data set by name, its images `size` pixels wide."""
    nodes = {name: option("dataset", name) for name in options("dataset")}
    return {
        name: build({**node, "image_size": size}, f"dataset.{name}")
        for name, node in nodes.items()
        if "image_size" in node
    }


def chosen(names: Sequence[str], size: int) -> list[Real]:
    """Data sets by name, and those of a suite by the suite's name; all if none is named."""
    known, suites = published(size), options("suite")
    found: dict[str, Real] = {}
    for name in names or known:
        if name in known:
            found[name] = known[name]
        elif name in suites:
            tasks = option("suite", name).get("tasks", [])
            found |= {task: known[task] for task in tasks if task in known}
        else:
            raise BenchError(
                f"'{name}' is no published data set and no suite{nearest(name, [*known, *suites])}"
            )
    return list(found.values())


def show(
    names: Sequence[str], size: int, *, deep: bool, pictures: bool, at: Path | None, as_json: bool
) -> int:
    """Print the state of data sets; 0 if all that were named can be used."""
    from benchmark.data.checking import status, verify

    _one_only(names, at)
    findings = [
        verify(one, pictures=pictures, at=at) if deep else status(one)
        for one in chosen(names, size)
    ]
    if as_json:
        sys.stdout.write(json.dumps([asdict(one) for one in findings], indent=1) + "\n")
    else:
        wide = max((len(one.name) for one in findings), default=0)
        for one in findings:
            sys.stdout.write(f"{one.name:<{wide}}  {one.state:<11}  {one.told}\n")
    return 1 if any(one.state != "ok" for one in findings) else 0


def fetch(names: Sequence[str], origin: str | None) -> int:
    """Download data sets; 0 if all are there."""
    from benchmark.data import fetch as fetching

    if origin not in (None, "torchvision", "hf"):
        raise BenchError(f"--from {origin} is not valid: give torchvision or hf")
    lost = 0
    for one in _named(names, SIZE):
        try:
            folder = fetching.fetch(one, origin)
            _say(f"{one.name}: in {folder}; next: `lfpm-bench data decode {one.name}`")
        except BenchError as error:
            _say(str(error))
            lost += 1
    return 1 if lost else 0


def decode(
    names: Sequence[str], size: int, *, at: Path | None, workers: int | None, leave_out: bool
) -> int:
    """Decode data sets that are not decoded yet; 0 if all are."""
    from benchmark.data.decode import Unreadable, decode
    from benchmark.data.decoded import read_index

    _one_only(names, at)
    lost = 0
    for one in _named(names, size):
        if read_index(one.folder) is None:
            _check_room(one)
        with _bar(one.name) as progress:
            made = decode(one, at=at, workers=workers, leave_out=leave_out, progress=progress)
        if isinstance(made, Unreadable):
            _say(_unreadable(one, made.pictures))
            lost += 1
        else:
            _say(
                f"{one.name}: {sum(s.images for s in made.splits.values())} images in {made.folder}"
            )
    return 1 if lost else 0


def _named(names: Sequence[str], size: int) -> list[Real]:
    if not names:
        raise BenchError("name data sets or a suite, e.g. `lfpm-bench data decode cars sun397`")
    return chosen(names, size)


def _one_only(names: Sequence[str], at: Path | None) -> None:
    if at is not None and len(names) != 1:
        raise BenchError("--at DIR says where one data set is: name that one")


def _check_room(dataset: Real) -> None:
    """Refuse to start where the images will not fit."""
    assert dataset.image_size is not None
    need = sum(dataset.sizes.values()) * 3 * dataset.image_size**2
    folder = next(one for one in dataset.folder.parents if one.exists())
    free = shutil.disk_usage(folder).free
    if need > free:
        raise BenchError(
            f"{dataset.name} needs {need / 1e9:.1f} GB decoded, {folder} has {free / 1e9:.1f} GB "
            "free; set LFPM_BENCH_DECODED to a folder with room"
        )


def _unreadable(dataset: Real, pictures: Sequence[str]) -> str:
    """Write all unreadable pictures to a file and name the first."""
    path = dataset.folder.parent / f"{dataset.name}.unreadable.txt"
    path.write_text("\n".join(pictures) + "\n")
    shown = "; ".join(pictures[:SHOWN])
    return (
        f"{dataset.name}: {len(pictures)} pictures cannot be read ({shown}; all in {path}): fetch "
        "them again, or decode without them with --leave-out-unreadable; nothing was kept"
    )


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on standard error, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
