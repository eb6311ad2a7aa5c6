"""Which GPUs there are, told without loading torch."""

from __future__ import annotations

import os
import subprocess

from benchmark.errors import BenchError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        BenchError: there is none.
    """
    allowed = os.environ.get(VISIBLE)
    found = _installed() if allowed is None else allowed.split(",")
    named = [one.strip() for one in found if one.strip() not in ("", "-1")]
    if not named:
        why = "nvidia-smi names none" if allowed is None else f"{VISIBLE}={allowed}"
        raise BenchError(f"launcher.device=cuda: there is no GPU ({why}); use launcher.device=cpu")
    return named


def _installed() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []
