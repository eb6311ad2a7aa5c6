"""`lfpm-bench status --watch`: how far an experiment is, again and again until it has ended."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

EVERY = 5.0  # seconds between two looks
SHARE = 10  # looking may take this part of the time at most
OPEN = ("missing", "running", "stale")
Report = Mapping[str, Any]


def reports(look: Callable[[], Report], sleep: Callable[[float], None]) -> Iterator[Report]:
    """Look until no cell is missing, running or stale."""
    while True:
        began = time.monotonic()
        report = look()
        yield report
        if not any(report["counts"][state] for state in OPEN):
            return
        sleep(max(EVERY, SHARE * (time.monotonic() - began)))


def watch(look: Callable[[], Report], text: Callable[[Report], str]) -> None:
    """Show reports: refreshed in place on a terminal, elsewhere a line whenever counts change.

    Args:
        look: makes a report (see benchmark.tables.status).
        text: a report for people, the counts in its first line.
    """
    if sys.stdout.isatty():
        _refresh(look, text)
        return
    last = None
    for report in reports(look, time.sleep):
        if report["counts"] != last:
            last = report["counts"]
            sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text(report).splitlines()[0]}\n")
            sys.stdout.flush()


def _refresh(look: Callable[[], Report], text: Callable[[Report], str]) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False, vertical_overflow="ellipsis") as live:
        for report in reports(look, time.sleep):
            clock = time.strftime("%H:%M:%S")
            live.update(Text(f"{text(report)}\n{clock}, Ctrl-C ends watching only"), refresh=True)
