"""What torch says of itself, asked in a process of its own: a broken pair dies there, not here.

`python -m benchmark.doctor.probe` prints one JSON line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

TIMEOUT = 300


def probe() -> dict[str, Any]:
    """`torch`, `torchvision`, `cuda`, `devices`, `architectures`; or `error` and what was there.

    `devices` are name, bytes of memory and capability (major, minor) of each GPU.
    """
    command = [sys.executable, "-m", "benchmark.doctor.probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"importing torch took longer than {TIMEOUT} s"}
    if done.returncode == 0:
        return json.loads(done.stdout)
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return {"error": last}


def answer() -> dict[str, Any]:
    """Asked inside the process."""
    import torch
    import torchvision

    assert torchvision.ops.nms is not None  # the operator that a mismatched pair lacks
    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0])
    torchvision.ops.nms(boxes, scores, 0.5)
    there = torch.cuda.is_available()
    count = torch.cuda.device_count() if there else 0
    return {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "devices": [_device(torch, index) for index in range(count)],
        "architectures": torch.cuda.get_arch_list() if there else [],
        "bfloat16": bool(there and torch.cuda.is_bf16_supported()),
    }


def _device(torch: Any, index: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(index)
    return {
        "name": found.name,
        "memory": found.total_memory,
        "capability": [found.major, found.minor],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(answer()))
