"""True triggers and mined prompts as pictures, as far as a store has their artifacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmark.cell import Cell
from benchmark.errors import BenchError
from benchmark.recorded import record_cell
from benchmark.records import Record
from benchmark.store import Store, key_of
from benchmark.tables.rows import setting_of

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

    from benchmark.types import Threat

SHOWN = 6
"""Images per trigger."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the report.

    Attributes:
        name: of its file, without the suffix; equal names hold equal pictures.
        caption: in words.
        pixels: (H,W,3 or 4) uint8.
        attack: key of the attack's artifact.
    """

    name: str
    caption: str
    pixels: ndarray
    attack: str


def triggers(records: Iterable[Record], store: Store) -> list[Picture]:
    """What the trigger of each attack does, of every setting at its first seed.

    Attacks whose artifact is not in the store are left out.
    """
    seen, found = set(), []
    for record in sorted(records, key=lambda one: one.seed):
        place = record.names["attack"], setting_of(record.config), str(record.config.get("attack"))
        if place not in seen and (pictures := list(_triggers(record, store))):
            seen.add(place)
            found += pictures
    return found


def _triggers(record: Record, store: Store) -> Iterator[Picture]:
    key = record.parents.get("attack", "")
    if not store.has("attack", key):
        return
    try:
        cell = record_cell(record)
    except BenchError:  # of another version of the suite
        return
    for at, threat in enumerate(_threats(store, key)):
        images = _images(cell, threat.task, store)
        yield Picture(
            name=f"trigger-{key}-{at}",
            caption=_caption(record, cell, threat, grey=images is None),
            pixels=_strip(threat, images, cell),
            attack=key,
        )


def _threats(store: Store, key: str) -> Sequence[Threat]:
    from benchmark.artifacts import load_compromise

    found = store.load("attack", key)
    return () if found is None else load_compromise(*found, key).threats


def _images(cell: Cell, task: str, store: Store) -> Tensor | None:
    """The first test images (N,3,S,S) uint8 of a task, if they are on this machine."""
    import torch

    mapped = getattr(cell.datasets[task], "mapped", None)
    if mapped is not None:
        try:
            return torch.from_numpy(mapped("test")[0][:SHOWN].copy())
        except (BenchError, OSError):
            return None
    data = store.load("data", key_of(*cell.data(task, "test")))
    return None if data is None else data[0]["images"][:SHOWN]


def _caption(record: Record, cell: Cell, threat: Threat, *, grey: bool) -> str:
    classname = cell.datasets[threat.task].classnames[threat.target]
    who = "planted by" if threat.attackers else "reference trigger on"
    place = f"{who} {threat.task}, {setting_of(record.config)}, seed {record.seed}"
    shown = (
        "the trigger on grey, since the images are not here; with it, images"
        if grey
        else f"images of {threat.task}, the same with the trigger, and what it changes, stretched, "
        "on grey; triggered, they"
    )
    return f"{record.names['attack']} ({place}): {shown} should be taken for '{classname}'"


def _strip(threat: Threat, images: Tensor | None, cell: Cell) -> ndarray:
    """Three rows: clean, triggered, difference; without images, one: the trigger on grey."""
    import torch

    if images is None:
        side = cell.backbone.image_size
        return _rgb(threat.trigger(torch.full((1, 3, side, side), 0.5))[0])
    clean = images.float() / 255
    triggered = threat.trigger(clean)
    change = triggered - clean
    stretched = 0.5 + 0.5 * change / change.abs().max().clamp_min(1e-6)
    rows = [torch.cat(list(row), dim=2) for row in (clean, triggered, stretched)]
    return _rgb(torch.cat(rows, dim=1))


def _rgb(picture: Tensor) -> ndarray:
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()


def prompts(record: Record, store: Store) -> Iterator[Picture]:
    """The prompts that a defence mined for each threatened task, beside the true trigger."""
    from benchmark.artifacts import below
    from benchmark.diagnostics.sheets import prompts_of, sheet

    key, attack = record.parents.get("model", ""), record.parents.get("attack", "")
    if not (store.has("defend", key) and store.has("attack", attack)):
        return
    found = prompts_of(below(_tensors(store, key, "artifact/"), "artifact/"))
    if not found:
        return
    try:
        cell = record_cell(record)
    except BenchError:
        return
    for threat in _threats(store, attack):
        images = _images(cell, threat.task, store)
        if images is None or threat.task not in found:
            continue
        values, masks = found[threat.task]
        caption = (
            f"{threat.task}, seed {record.seed}: an image with the true trigger and with the first "
            f"mined prompt; the trigger alone; the {len(values)} prompts mined for this task alone"
        )
        pixels = sheet(images[0].float() / 255, values, masks, threat.trigger)
        yield Picture(f"prompts-{key}-{threat.task}", caption, pixels, attack)


def _tensors(store: Store, key: str, prefix: str) -> dict[str, Any]:
    """The tensors of a defended model below a prefix; the weights are not read."""
    from safetensors import safe_open

    path = store.path("defend", key).with_suffix(".safetensors")
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
