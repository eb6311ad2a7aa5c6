"""What is measured: on test images or, in development, dev images nobody got; and the curve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchError
from benchmark.store import key_of

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.cell import Cell

PARTS = ("attack", "merge", "defense", "stress")


def image_keys(cell: Cell, tasks: tuple[str, ...]) -> dict[str, Any]:
    """What an evaluation's key says of its images, and of a precision other than the backbone's."""
    keys = {task: key_of(*cell.data(task, cell.suite.evaluate)) for task in tasks}
    told = {} if cell.suite.precision is None else {"precision": cell.suite.precision}
    if cell.suite.evaluate == "test":
        return {"test": keys, **told}
    return {"dev": keys, "granted": cell.suite.granted, "seed": cell.seed, **told}


def curve_inputs(cell: Cell) -> dict[str, Any] | None:
    """What the key of a cell's curve says; None if suite or defence has no such line.

    A stressed cell has none: its ends may be measured with different triggers.
    """
    suite, ends = cell.suite, (cell.model_key("undefended"), cell.model_key("main"))
    if suite.curve_images is None or not suite.curve or ends[0] == ends[1]:
        return None
    if cell.stressed("main") is not None:
        return None
    return {
        "ends": ends,
        "scales": suite.curve,
        "threats": key_of(*cell.compromise()),
        "heads": {task: key_of(*cell.head(task)) for task in suite.tasks},
        "images": suite.curve_images,
        **image_keys(cell, suite.tasks),
    }


def measured_rows(cell: Cell, task: str, available: int) -> Tensor:
    """Rows (N,) int64 of the split `cell.suite.evaluate`, in the order in which they are taken.

    Test images come in stored order. Of the dev images those that `Context.images` hands out are
    left out: it takes the first `granted` of a permutation, and these are the rest of it.

    Args:
        cell: the cell.
        task: whose images.
        available: how many the split has.
    """
    import torch

    from benchmark.context import handing_order

    if cell.suite.evaluate == "test":
        return torch.arange(available)
    return handing_order(cell.seed, task, "dev", available)[cell.suite.granted :]


def check_images(cell: Cell) -> None:
    """Refuse to measure on dev images that a component may have seen, or on none."""
    if cell.suite.evaluate == "test":
        return
    limit = cell.suite.granted
    for name in PARTS:
        for grant in getattr(cell, name).needs:
            if grant.split == "dev" and (grant.per_task is None or grant.per_task > limit):
                raise BenchError(
                    f"suite.granted={limit}: {name} sees {grant}, so it would be measured on "
                    "images it has seen; raise suite.granted or measure on test images"
                )
    for task, data in cell.datasets.items():
        if data.sizes["dev"] <= limit:
            raise BenchError(
                f"suite.granted={limit}: task '{task}' has {data.sizes['dev']} dev images, so none "
                "is left to measure on; lower suite.granted and what methods are granted"
            )
