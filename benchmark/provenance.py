"""Where numbers come from: commit, versions, machine. Outside identity and comparison; no torch."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "open_clip_torch", "numpy", "safetensors", "hydra-core", "lfpm-bench")


def provenance(threads: int, device: str) -> dict[str, Any]:
    """Plain JSON: git commit and dirty flag, package versions, Python, threads, device."""
    return {
        **commit(),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": threads,
        "device": device,
    }


def commit() -> dict[str, Any]:
    """The checkout's commit and whether its tracked files were changed; None outside a checkout."""
    root = Path(__file__).parent.parent
    head = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return {"commit": head, "dirty": None if changes is None else bool(changes)}


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
