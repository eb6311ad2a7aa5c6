"""The errors a user can cause, each told in one sentence: what, where, which value, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class BenchError(Exception):
    """Bad input. The command line prints its message without a traceback and exits with 2."""


class AccessDenied(BenchError):
    """A component reached for data that it did not declare."""


class BadCheckpoint(BenchError):
    """A weights file that is none, or not of this model: the whole run stops, not one cell."""


class IncompatibleWeights(BenchError):
    """State dicts whose keys or shapes differ."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """The words " (did you mean 'x'?)" for a name that begins so or is close, or all names."""
    valid = sorted(valid)
    begun = [one for one in valid if name and one.startswith(name)]
    close = begun or get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (valid: {', '.join(valid)})"
