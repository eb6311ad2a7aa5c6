"""MATLAB files that belong to data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.data.samples import require
from benchmark.errors import BenchError


def read_mat(path: Path, *names: str) -> dict[str, Any]:
    """The variables of a .mat file (version 5), singleton axes removed from structs.

    Raises:
        BenchError: it is missing, not such a file, or lacks one of `names`.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        body = loadmat(require(path), squeeze_me=True)
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError) as error:
        raise BenchError(f"{path} is not a MATLAB file ({error}); fetch it again") from error
    if missing := [name for name in names if name not in body]:
        raise BenchError(f"{path} has no variable '{missing[0]}'; fetch it again")
    return body
