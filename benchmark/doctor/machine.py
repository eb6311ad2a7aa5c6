"""The machine: Python, torch and torchvision, GPU and driver, disks, the network's switches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark.data.fetch import offline
from benchmark.data.places import DATA, DECODED, data_root, decoded_root
from benchmark.doctor.findings import Finding, error, ok, warning
from benchmark.errors import BenchError
from benchmark.store import Store

PYTHON = (3, 11)
PAIR = 'pip install "torch>=2.6" torchvision --upgrade in this environment, both from one index'


def machine(asked: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[Finding]:
    """Python, the torch pair and the device of the launcher.

    Args:
        asked: resolved values of conf/launcher.
        found: what `benchmark.doctor.probe` says.
    """
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < PYTHON:
        yield error(f"Python {version}", "use Python 3.11 or newer: make PYTHON=/path/to/it")
    else:
        yield ok(f"Python {version}")
    yield from pair(found)
    if "error" not in found:
        yield from device(str(asked.get("device", "cpu")), found, driver())


def pair(found: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether torch and torchvision are made for each other."""
    if "error" not in found:
        yield ok(f"torch {found['torch']} with torchvision {found['torchvision']}")
    elif "nms" in found["error"]:
        yield error(
            f"torch and torchvision do not fit ({found['error']}): one is built for CUDA, the "
            "other for CPU only",
            PAIR,
        )
    else:
        yield error(f"torch cannot be used ({found['error']})", PAIR)


def driver() -> str | None:
    """The version of the NVIDIA driver, or None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout.split() or [None])[0]


def device(asked: str, found: Mapping[str, Any], driver: str | None) -> Iterator[Finding]:
    """Whether the launcher's device is there and torch can use it."""
    devices = found["devices"]
    if devices and not asked.startswith("cuda"):
        yield warning(f"launcher.device={asked}, but there is a GPU", "add launcher.device=cuda")
    if not devices and driver is not None:
        yield warning(
            f"an NVIDIA driver {driver}, but torch {found['torch']} (CUDA {found['cuda']}) cannot "
            "use the GPU",
            "update the driver, or install a torch that is built for its CUDA version",
        )
    if not devices and asked.startswith("cuda"):
        yield error(
            f"launcher.device={asked}, but torch sees no GPU",
            "run on a machine with one (nvidia-smi shows it), or leave launcher.device=cpu",
        )
    for one in devices:
        major, minor = one["capability"]
        size = f"{one['memory'] / 2**30:.0f} GiB"
        if f"sm_{major}{minor}" not in found["architectures"] and not _newer(one, found):
            yield error(
                f"GPU {one['name']} (sm_{major}{minor}) is too old for torch {found['torch']}",
                'install an older torch that supports it, e.g. pip install "torch<2.9" torchvision',
            )
        else:
            said = f", driver {driver}" if driver else ""
            yield ok(f"GPU {one['name']}, {size}, sm_{major}{minor}{said}")
    if not devices and not asked.startswith("cuda"):
        yield ok(f"launcher.device={asked}, {len(os.sched_getaffinity(0))} cores")


def _newer(one: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a torch built for an older GPU of the same major version runs on this one."""
    major, minor = one["capability"]
    built = [int(name[3:]) for name in found["architectures"] if name[3:].isdigit()]
    return any(each // 10 == major and each % 10 <= minor for each in built)


def places(store: Path, needed: float, decoded: float) -> Iterator[Finding]:
    """Whether the store can be written, and the disks hold what will come.

    Args:
        store: its folder.
        needed: bytes of artifacts that will be written.
        decoded: bytes of images that are still to be decoded.
    """
    try:
        Store(store).check_writable()
        yield _space("the store", Path(store), needed, "store=DIR or LFPM_BENCH_STORE")
    except BenchError as problem:
        yield error(str(problem), "give a writable folder with store=DIR or LFPM_BENCH_STORE")
    if decoded:
        yield _space("decoded images", decoded_root(), decoded, f"{DECODED}=DIR")


def _space(what: str, folder: Path, needed: float, remedy: str) -> Finding:
    at = folder
    while not at.exists():
        at = at.parent
    free, gib = shutil.disk_usage(at).free, 2**30
    line = f"{what} in {folder}: {free / gib:.1f} GiB free, about {needed / gib:.1f} GiB needed"
    return ok(line) if free > needed else error(line, f"free some, or use another disk: {remedy}")


def network() -> Iterator[Finding]:
    """Which switches keep commands from the network, and where caches are."""
    from huggingface_hub import constants

    switch = offline()
    state = f"offline ({switch} is set)" if switch else "online; only `data fetch` uses the network"
    yield ok(state)
    yield ok(f"data sets in {data_root()} ({DATA}); weights cached in {constants.HF_HUB_CACHE}")
