"""The errors a user can cause, each told in one sentence: what, where, which value, what to do."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TextIO


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


def unread(stream: TextIO) -> bool:
    """Whether nobody reads this stream any more (`... | head`); the rest of it is then dropped."""
    asked = select.poll()
    asked.register(stream.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in asked.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone
