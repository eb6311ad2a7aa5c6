"""What a cell's attack aims at and may know, and whether that fits its suite. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.attacks.triggers import place_of
from benchmark.errors import BenchError, nearest

if TYPE_CHECKING:
    from benchmark.cell import Cell


def known_captions(cell: Cell) -> dict[str, tuple[str, ...]]:
    """Task -> class names that an attack which `reads_captions` may know; {} for all others.

    They are those of the public pre-training captions. Of a victim that is not the attacker's own
    it is the target's name alone, whether or not its captions were seen in pre-training.
    """
    if not getattr(cell.attack, "reads_captions", False):
        return {}
    known = {task: tuple(cell.datasets[task].classnames) for task in cell.pretrain_tasks}
    foreign = [aim for aim in cell.victims if aim[0] not in cell.attack.adversaries]
    return known | {task: (cell.datasets[task].classnames[label],) for task, label in foreign}


def check_attack(cell: Cell) -> None:
    """Refuse a task, class or place that is not there, and an attack by everybody."""
    tasks = cell.suite.tasks
    for task in cell.attack_tasks:
        if task not in tasks:
            fields = ("partner", "victim_task")  # of attacks that name a second task
            key = next((f for f in fields if getattr(cell.attack, f, "") == task), "adversary")
            raise BenchError(
                f"attack.{key}={task} is not among the merged tasks{nearest(task, tasks)}"
            )
    for task, target in cell.victims:
        classes = len(cell.datasets[task].classnames)
        if not 0 <= target < classes:
            raise BenchError(
                f"attack.target={target}: task '{task}' has classes 0 to {classes - 1}; choose one"
            )
    if len(set(cell.attack.adversaries)) == len(tasks):
        raise BenchError("every merged task is an adversary: leave at least one honest contributor")
    for patch in (cell.attack, *getattr(cell.attack, "plants", ())):
        if hasattr(patch, "place") and hasattr(patch, "size"):
            place_of(patch.place, patch.size, cell.backbone.image_size)
