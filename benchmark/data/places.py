"""Where published data sets lie on this machine, and where their decoded images are kept."""

from __future__ import annotations

import os
from pathlib import Path

DATA = "LFPM_BENCH_DATA"
DECODED = "LFPM_BENCH_DECODED"


def data_root() -> Path:
    """The folder of all data sets: $LFPM_BENCH_DATA, or `data` where you are."""
    return Path(os.environ.get(DATA, "data")).expanduser().resolve()


def decoded_root() -> Path:
    """The folder of decoded images: $LFPM_BENCH_DECODED, or `.decoded` among the data."""
    named = os.environ.get(DECODED)
    return Path(named).expanduser().resolve() if named else data_root() / ".decoded"


def candidates(name: str) -> tuple[Path, ...]:
    """Folders in which the data set `name` is looked for, in this order."""
    return data_root() / name, data_root()
