"""Downloads a published data set into its folder, from torchvision's sources or the hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from benchmark.components import component
from benchmark.data.places import data_root
from benchmark.data.real import Origin, Real
from benchmark.errors import BenchError

OFFLINE = ("LFPM_BENCH_OFFLINE", "HF_HUB_OFFLINE")


@component
class Torchvision:
    """A class of `torchvision.datasets` that can download.

    Attributes:
        dataset: its name.
        calls: keyword arguments of each call that is needed, beside `root` and `download`.
    """

    version: ClassVar[int] = 1
    dataset: str
    calls: tuple[dict[str, Any], ...]

    def fetch(self, root: Path) -> None:
        """Download into `root` what is not there; hashes are torchvision's."""
        from torchvision import datasets

        cls: Any = getattr(datasets, self.dataset)
        for call in self.calls:
            cls(root=root, download=True, **call)


def offline() -> str | None:
    """The environment variable that forbids the network, if one is set."""
    yes = ("1", "on", "yes", "true")
    return next((name for name in OFFLINE if os.environ.get(name, "").lower() in yes), None)


def fetch(dataset: Real, origin: Origin | None) -> Path:
    """Download a data set; files that are there are kept.

    Args:
        dataset: which.
        origin: from where; None: the first it has.

    Returns:
        Its folder.

    Raises:
        BenchError: the network is forbidden or fails, or there is no such source; with the reason
            and what to do by hand.
    """
    known = dataset.origins
    chosen = origin or (known[0] if known else None)
    if chosen is None or chosen not in known:
        there = f"; there is --from {' or '.join(known)}" if known else ""
        raise BenchError(
            f"{dataset.name} cannot be fetched{_from(origin)}{there}. {dataset.help}".rstrip()
        )
    if (variable := offline()) is not None:
        raise BenchError(
            f"{dataset.name} is not fetched: {variable} is set, so nothing is downloaded"
        )
    folder = data_root() / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if chosen == "hf":
            _from_hub(dataset, folder)
        else:
            dataset.torchvision.fetch(folder)
    except (OSError, RuntimeError, ValueError) as error:  # hub errors are OSErrors or ValueErrors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BenchError(
            f"{dataset.name} could not be fetched from {chosen} ({reason}). {dataset.help}".rstrip()
        ) from error
    return folder


def _from(origin: Origin | None) -> str:
    return f" from {origin}" if origin else ""


def _from_hub(dataset: Real, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    patterns = list(dataset.hub.patterns)
    snapshot_download(
        dataset.hub.repo, repo_type="dataset", allow_patterns=patterns, local_dir=folder
    )
