"""One measured process, in any environment: needs torch and safetensors only.

Every model is loaded from its safetensors file, which maps it into memory, and read once. That is
the floor: `extra_bytes` is how far the highest resident memory of preparation and first call rises
above it. Before that everything is done once on tiny weights, so that what is imported or set up at
the first use, 200 MB for some, counts for nobody. The first call is a warm-up where there are more.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.bench.shapes import SMALL

Weights = dict[str, Tensor]
Run = Callable[[Weights, list[Weights]], Callable[[], Any]]
"""(base, experts) -> what is timed; the step in between is not."""
PARTS = {
    "all": ("",),
    "block": ("transformer.resblocks.0.",),
    "attention": (
        "transformer.resblocks.0.attn.in_proj_weight",
        "transformer.resblocks.0.attn.out_proj.weight",
    ),
}
"""Part -> how the names of its tensors begin."""
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def serve(runs: Mapping[str, Run]) -> None:
    """Run what the JSON file in argv[1] asks for and leave the numbers where it says."""
    spec = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(spec["threads"])
    run, part = runs[spec["what"]], spec["part"]
    rehearse(run, part)
    base, *experts = (loaded(path, part) for path in spec["models"])
    floor = fresh_peak()
    with torch.no_grad():
        call = run(base, experts)
    seconds, extra = [], 0
    for index in range(spec["calls"]):
        started = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - started)
        del result
        if index == 0:
            extra = peak() - floor
    told = {
        "seconds": seconds,
        "extra_bytes": extra,
        "model_bytes": sum(value.nbytes for value in base.values()),
        "torch": torch.__version__,
    }
    Path(spec["out"]).write_text(json.dumps(told))


def rehearse(run: Run, part: str, tasks: int = 3) -> None:
    """Prepare and call once on tiny random weights."""
    shapes = {k: v for k, v in SMALL.shapes().items() if k.startswith(PARTS[part])}
    tiny = [{k: torch.randn(v) for k, v in shapes.items()} for _ in range(tasks + 1)]
    with torch.no_grad():
        call = run(tiny[0], tiny[1:])
    call()


def loaded(path: str, part: str) -> Weights:
    """The tensors of a part of a file, each read once."""
    found = {k: v for k, v in load_file(path).items() if k.startswith(PARTS[part])}
    for value in found.values():
        value.sum()
    return found


def peak() -> int:
    """Highest resident memory so far, in bytes: what `ru_maxrss` counts."""
    if STATUS.exists():
        (line,) = (one for one in STATUS.read_text().splitlines() if one.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def fresh_peak() -> int:
    """`peak` from now on: Linux can forget what imports needed for a moment."""
    if CLEAR.exists():
        CLEAR.write_text("5")
    return peak()
