"""What a cell will cost before it is run: operations, GPU-hours, disk and memory. No torch.

All of it is arithmetic on shapes and step counts; `docs/paper_scale.md` compares it with what was
measured. A pass is one image forward and backward; forward alone is a third of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmark.selection import FORWARD

if TYPE_CHECKING:
    from benchmark.cell import Cell
    from benchmark.models.backbone import Backbone

FLOAT = 4
KEPT = {True: 20.6, False: 17.4}
"""Floats per token, width and layer that the tower remembers for the backward pass, with QuickGELU
and with GELU: counted on ViT-B/32 and on the embedded suite's tower (`tests/test_estimate.py`)."""
HALF = 0.6
"""Share of them under autocast: products are half as large, norms and residuals are not."""
PROCESS = 1.0 * 2**30
"""Bytes of a process before it holds any weight: Python, torch, open_clip."""
SPEED = {"float32": 12e12, "bfloat16": 60e12, "float16": 60e12}
"""Operations a second of training that an NVIDIA A100 is assumed to reach; not measured here."""


@dataclass(frozen=True)
class Cost:
    """What stages cost, added up; `memory` is the largest of one process.

    Attributes:
        passes: of the backbone.
        operations: floating-point, of the image tower.
        seconds: on one GPU as fast as SPEED.
        disk: bytes of artifacts.
        memory: bytes on the device, weights and activations.
    """

    passes: float = 0.0
    operations: float = 0.0
    seconds: float = 0.0
    disk: float = 0.0
    memory: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other."""
        return Cost(
            self.passes + other.passes,
            self.operations + other.operations,
            self.seconds + other.seconds,
            self.disk + other.disk,
            max(self.memory, other.memory),
        )


def tower_shapes(backbone: Backbone) -> dict[str, int]:
    """tokens, width, layers, patch, out of an image tower."""
    vision = backbone.model["vision_cfg"]
    tokens = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    named = {"width": "width", "layers": "layers", "patch": "patch_size"}
    sizes = {ours: int(vision[theirs]) for ours, theirs in named.items()}
    return {**sizes, "tokens": tokens, "out": int(backbone.model["embed_dim"])}


def parameters(backbone: Backbone) -> int:
    """Numbers in an image tower."""
    s = tower_shapes(backbone)
    width = s["width"]
    layer = 12 * width**2 + 13 * width
    ends = width * (1 + s["tokens"] + 4 + 3 * s["patch"] ** 2 + s["out"])
    return s["layers"] * layer + ends


def operations(backbone: Backbone) -> float:
    """Floating-point operations of one image forward: twice the multiply-adds of its products."""
    s = tower_shapes(backbone)
    width, tokens = s["width"], s["tokens"]
    layer = tokens * 12 * width**2 + 2 * tokens**2 * width
    ends = (tokens - 1) * 3 * s["patch"] ** 2 * width + width * s["out"]
    return 2.0 * (s["layers"] * layer + ends)


def activations(backbone: Backbone) -> float:
    """Bytes that one image leaves behind for the backward pass."""
    s = tower_shapes(backbone)
    share = 1.0 if backbone.precision == "float32" else HALF
    numbers = KEPT[backbone.quick_gelu] * s["tokens"] * s["width"] * s["layers"]
    return numbers * FLOAT * share


def weights(backbone: Backbone) -> float:
    """Bytes of an image tower."""
    return float(FLOAT * parameters(backbone))


def of_stage(cell: Cell, call: tuple[str, ...]) -> Cost:
    """The cost of one job: a method of `benchmark.bench.Bench` and its arguments."""
    size, tasks = weights(cell.backbone), len(cell.suite.tasks)
    together = activations(cell.backbone) * _at_once(cell)
    trained = 4 * size + together + largest_split(cell)[1]
    merged = (tasks + 3) * size
    defended = merged + 5 * size + _moments(cell.backbone) + together / 3
    expert = _expert(cell, call[1]) if call[0] == "expert" else 0.0
    images = _measured(cell, call[1]) if call[0] == "evaluation" else 0.0
    costs: dict[str, tuple[float, float, float]] = {
        "expert": (expert, size, trained),
        "compromise": (_attack(cell), size * len(cell.attack.adversaries), trained + size),
        "merged": (float(getattr(cell.merge, "passes", 0)), size, merged),
        "defended": (float(getattr(cell.defense, "passes", 0)), 2 * size, defended),
        "evaluation": (FORWARD * images, 0.0, 2 * size),
        "curve": (FORWARD * _curve(cell), 0.0, 3 * size),
    }
    passes, disk, memory = costs.get(call[0], (0.0, 0.0, size))
    work = passes / FORWARD * operations(cell.backbone)
    return Cost(passes, work, work / SPEED[cell.backbone.precision], disk, memory)


def _at_once(cell: Cell) -> float:
    """Images whose activations are held at the same time in training; half as many triggered."""
    together = 1.5 * cell.finetune.batch
    micro = cell.backbone.micro_batch
    return together if micro is None else min(together, micro)


def largest_split(cell: Cell) -> tuple[str, float]:
    """The task with most train images and their bytes: a contributor has all on the device."""
    sizes = {task: data.sizes["train"] for task, data in cell.datasets.items()}
    task = max(sizes, key=lambda one: sizes[one])
    return task, 3.0 * sizes[task] * cell.backbone.image_size**2


def _moments(backbone: Backbone) -> float:
    """Bytes of LFPM's metric: second moments of every layer's inputs, means and maps, float64."""
    s = tower_shapes(backbone)
    squares = s["layers"] * 19 * s["width"] ** 2 + (3 * s["patch"] ** 2) ** 2
    return 3 * 2.0 * FLOAT * squares


def _expert(cell: Cell, task: str) -> float:
    recipe, images = cell.finetune.of(task), cell.datasets[task].sizes["train"]
    return float(recipe.steps(images) * min(recipe.batch, images))


def _attack(cell: Cell) -> float:
    """As its expert, with half of every batch again, triggered; the base sees those forward."""
    share = 1 + 0.5 * (1 + FORWARD)
    search = getattr(cell.attack, "trigger_steps", 0) * getattr(cell.attack, "trigger_batch", 0)
    return search + sum(share * _expert(cell, task) for task in cell.attack.adversaries)


def _measured(cell: Cell, subject: str) -> float:
    """Images through the encoder in one evaluation: clean, triggered, flipped and shuffled."""
    victims, total = dict(cell.victims), 0.0
    for task in cell.evaluated_tasks(subject):
        whole = cell.datasets[task].sizes[cell.suite.evaluate]
        if task in victims:
            total += whole * (1 + len(cell.victims))
        else:
            total += min(cell.suite.clean_images or whole, whole)
            total += 2 * len(cell.victims) * min(cell.suite.flip_images, whole)
    return total


def _curve(cell: Cell) -> float:
    count = cell.suite.curve_images or 0
    return 2.0 * count * len(cell.suite.tasks) * len(cell.suite.curve)


def needed(cell: Cell) -> Cost:
    """The cost of one cell from an empty store; its keys are not asked for."""
    total, seen = Cost(), set[tuple[str, ...]]()
    for call in _calls(cell):
        if call not in seen:
            seen.add(call)
            total += of_stage(cell, call)
    return total


def _calls(cell: Cell) -> Iterator[tuple[str, ...]]:
    """How `Bench` is asked for what a cell needs and what costs anything."""
    yield from (("expert", task) for task in cell.suite.tasks)
    yield ("compromise",)
    sides = ("clean", "attacked", "without") if cell.attack.adversaries else ("clean",)
    yield from (("merged", side) for side in sides)
    if not getattr(cell.defense, "transparent", False):
        yield from (("defended", side) for side in sides[:2])
    yield from (("evaluation", subject) for subject in cell.subjects())
    if cell.suite.curve and not getattr(cell.defense, "transparent", False):
        yield ("curve",)


def images_on_disk(cell: Cell) -> float:
    """Bytes of all decoded images of a cell's tasks."""
    side = cell.backbone.image_size
    pixels = 3 * side**2
    return float(sum(sum(data.sizes.values()) for data in cell.datasets.values()) * pixels)


def said(cost: Cost) -> str:
    """In words for people: GPU-hours, disk and memory of one process."""
    gib = 2**30
    return (
        f"{cost.seconds / 3600:.2g} GPU-hours (an A100, assumed), {cost.disk / gib:.2g} GiB of "
        f"artifacts, {(cost.memory + PROCESS) / gib:.2g} GiB of memory in one process"
    )
