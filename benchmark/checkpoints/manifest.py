"""The manifest beside an imported expert: what it is, where it is from, and for which encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BadCheckpoint, BenchError, nearest
from benchmark.store import content_sha256, file_sha256
from benchmark.types import StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.models.backbone import Backbone

FORMAT = 1
"""Raised when a manifest changes so that older programs would misread it."""
CLOSE = 1e-4
"""Channel means and deviations that differ by less are those of the same preprocessing."""


@dataclass(frozen=True, slots=True)
class Imported:
    """An expert that was not trained here.

    Attributes:
        path: safetensors of the image tower.
        sha256: of that file; what the expert is in keys.
        told: the whole manifest, plain JSON.
    """

    path: Path
    sha256: str
    told: Mapping[str, Any]


def manifest_of(path: Path) -> Path:
    """Where the manifest of a file of weights is."""
    return path.with_suffix(".json")


def activation_of(backbone: Backbone) -> str:
    """What the encoder computes: "quickgelu", x sigmoid(1.702 x), or "gelu"."""
    return "quickgelu" if backbone.quick_gelu else "gelu"


def imported(where: str, file: str, task: str, backbone: Backbone) -> Imported:
    """An imported expert, checked against the encoder that is to run it. No torch.

    Args:
        where: how error messages call it, e.g. "experts.cars".
        file: safetensors as `lfpm-bench import-checkpoint` writes it, its manifest beside it.
        task: the task it is used for.
        backbone: of the suite.

    Raises:
        BenchError: it is not there, was changed, or belongs to another task or encoder.
    """
    path = Path(file).expanduser()
    told = _read(where, path)
    digest = content_sha256(path)
    if digest != told["sha256"]:
        raise BenchError(f"{where}={file} is not the file its manifest is about: import it again")
    if told["task"] != task:
        raise BenchError(
            f"{where}={file} was imported as '{told['task']}'; import it --as {task} if it is that"
        )
    for name, value in fingerprint(backbone).items():
        if told[name] != value:
            raise BenchError(
                f"{where}={file} was imported for another encoder: its {name} is "
                f"{_short(told[name])}, the suite's {_short(value)}; import it with this --suite"
            )
    return Imported(path, digest, told)


def fingerprint(backbone: Backbone) -> dict[str, Any]:
    """What must be equal for weights to mean the same: architecture, activation, preprocessing."""
    model = json.loads(json.dumps(backbone.model))
    preprocessing = {
        "mean": [round(one, 6) for one in backbone.mean],
        "std": [round(one, 6) for one in backbone.std],
        "image_size": backbone.image_size,
    }
    vision = {"embed_dim": model["embed_dim"], **model["vision_cfg"]}
    return {
        "architecture": vision,
        "activation": activation_of(backbone),
        "preprocessing": preprocessing,
    }


def _read(where: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BenchError(f"{where}={path} is not there; give a file of import-checkpoint")
    try:
        told = json.loads(manifest_of(path).read_text())
        if told["format"] != FORMAT:
            raise BenchError(
                f"{manifest_of(path)} has format {told['format']}, not {FORMAT}: import it again"
            )
        wanted = {"sha256", "task", "architecture", "activation", "preprocessing"}
        if missing := wanted - told.keys():
            raise KeyError(min(missing))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"{where}={path} has no manifest that can be read ({manifest_of(path).name}: "
            f"{type(error).__name__}); make both with `lfpm-bench import-checkpoint`"
        ) from error
    return told


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else f"{text[:117]}..."


def imported_experts(
    given: Mapping[str, Any], tasks: tuple[str, ...], backbone: Backbone
) -> dict[str, Imported]:
    """Task -> imported expert, of the tasks that name one.

    Raises:
        BenchError: a task that is not merged, or a file that is no such expert.
    """
    found: dict[str, Imported] = {}
    for task, file in given.items():
        if task not in tasks:
            raise BenchError(f"experts.{task}: no such task is merged{nearest(task, tasks)}")
        if not isinstance(file, str):
            raise BenchError(f"experts.{task}={file!r} is not valid: give a file")
        found[task] = imported(f"experts.{task}", file, task, backbone)
    return found


def lineage(experts: Mapping[str, Imported]) -> dict[str, Any]:
    """What a record says of imported experts, by task."""
    said = ("sha256", "source", "licence", "distance", "from_base", "left_out")
    return {
        task: {name: one.told[name] for name in said if name in one.told}
        for task, one in experts.items()
    }


def load_imported(one: Imported, base: StateDict) -> Tensors:
    """The weights of an imported expert.

    Raises:
        BadCheckpoint: the file was changed since its cell was planned, or does not fit the base.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from benchmark.algebra import first_faults

    try:
        if file_sha256(one.path) != one.sha256:
            raise BadCheckpoint(f"{one.path} was changed while it was in use: run this again")
        weights = load_file(one.path)
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(f"{one.path} cannot be read ({error})") from error
    if faults := first_faults(base, weights):
        raise BadCheckpoint(f"{one.path} does not fit the suite's encoder: {faults}")
    return weights
