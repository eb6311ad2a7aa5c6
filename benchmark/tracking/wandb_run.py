"""One W&B run, written. The only module that talks to wandb; it is imported when needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmark.tracking.curves import AXES
from benchmark.tracking.entry import Entry
from benchmark.tracking.settings import Destination

if TYPE_CHECKING:
    from benchmark.report.pictures import Picture

Pictures: TypeAlias = "Mapping[str, Sequence[Picture]]"
"""W&B's key -> pictures."""

PATIENCE = 60.0
"""Seconds to wait for a server before a run is given up; it is sent the next time."""


def write_run(entry: Entry, pictures: Pictures, to: Destination, root: Path) -> str:
    """Write a run: offline below `<root>/wandb`, online to the server.

    A run of this id is taken up again. Steps are the places of `entry.rows`, and a server ignores
    steps it has, so that a run sent twice, or cut off half-way, holds everything once.

    Returns:
        The folder of the offline run, or the address of the online one.
    """
    import wandb

    earlier = _folders(root, entry.id) if to.mode == "offline" else []
    run: Any = wandb.init(
        id=entry.id,
        name=entry.name,
        group=entry.group,
        job_type=entry.kind,
        tags=entry.tags,
        notes=entry.notes,
        config=dict(entry.config),
        project=to.project,
        entity=to.entity,
        mode="online" if to.mode == "online" else "offline",
        dir=root,
        resume="allow",
        reinit="create_new",  # a run that the user has open stays open
        settings=_settings(),
    )
    try:
        _log(run, entry, pictures)
        place = run.url if to.mode == "online" else str(Path(run.settings.sync_dir))
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=int(entry.failed))
    for folder in earlier:
        rmtree(folder)
    return place


def _folders(root: Path, run: str) -> list[Path]:
    """Offline runs of this id that were cut off, or held what is no longer so."""
    return list((root / "wandb").glob(f"offline-run-*-{run}"))


def _settings() -> Any:
    """Quiet; code, packages and hardware are not collected, since provenance says what matters."""
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        allow_val_change=True,
        init_timeout=PATIENCE,
        finish_timeout=PATIENCE,
        finish_timeout_raises=True,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        save_code=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )


def _log(run: Any, entry: Entry, pictures: Pictures) -> None:
    import wandb

    for section, axis in AXES.items():
        run.define_metric(axis, hidden=True, summary="none")
        run.define_metric(f"{section}/*", step_metric=axis, step_sync=False, summary="none")
    for step, row in enumerate(entry.rows):
        run.log(dict(row), step=step)
    media: dict[str, Any] = {
        name: wandb.Table(columns=list(grid.columns), data=[list(row) for row in grid.rows])
        for name, grid in entry.grids.items()
    }
    media |= {name: wandb.Html(page, inject=False) for name, page in entry.pages.items()}
    media |= {
        name: [wandb.Image(one.pixels, caption=one.caption) for one in shown]
        for name, shown in pictures.items()
        if shown
    }
    if media:
        run.log(media, step=len(entry.rows))
    run.summary.update(dict(entry.summary))
