"""Claims: who computes what right now, on any machine that sees the store's folder.

A claim on a key is the file `<key>.<n>` that nobody else could create. Its holder lives as long as
its process does; seen from another machine, as long as the file is touched (every BEAT seconds). A
claim whose holder is dead is not removed but passed over: the next one takes `<key>.<n + 1>`, which
again only one can create. File creation is the one thing that network file systems do atomically;
nothing here needs their locks, or clocks that agree.

A holder that was out of sight for longer than LEASE (a laptop that slept) may find its key taken.
Both then compute the same and write it whole: work is lost, results are not.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BEAT = 10.0
"""Seconds between two signs of life."""
LEASE = 90.0
"""Seconds without one after which another machine's claim is that of a dead process."""
WAIT = 0.05
"""Seconds between two attempts at a claim that is waited for."""
_threads = threading.Lock()
_mine: set[Path] = set()
"""Claims of this process: what it holds, it may ask for again."""


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Attributes:
        key: what is claimed.
        label: what it is, for people.
        host: name of the machine.
        pid: its process there.
        since: seconds since 1970, by the clock of that machine.
        alive: whether that process is still there.
    """

    key: str
    label: str
    host: str
    pid: int
    since: float
    alive: bool


@contextlib.contextmanager
def claimed(folder: Path, key: str, label: str = "") -> Iterator[bool]:
    """Hold the claim on a key, unless somebody alive has it.

    Args:
        folder: where claims are; made if it is not there.
        key: letters and digits.
        label: for people who look at claims.

    Yields:
        Whether this process holds it. Within its own claim a process is given it again.
    """
    first = folder / f"{key}.1"
    if first in _mine:
        yield True
        return
    path = _take(folder, key, label)
    if path is None:
        yield False
        return
    _mine.add(first)
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, ended), daemon=True).start()
    try:
        yield True
    finally:
        ended.set()
        _mine.discard(first)
        _release(folder, key, path)


@contextlib.contextmanager
def alone(folder: Path, key: str) -> Iterator[None]:
    """Hold the claim on a key, once nobody else alive has it: no other process, no other thread."""
    with _threads:
        while True:
            with claimed(folder, key) as ours:
                if ours:
                    yield
                    return
            time.sleep(WAIT)


def holder(folder: Path, key: str) -> Holder | None:
    """Who holds the claim on a key, or held it last and died; None if nobody does."""
    last = None
    for number in itertools.count(1):
        found = _read(folder / f"{key}.{number}")
        if found is None or found.alive:
            return found or last
        last = found
    return None


def holders(folder: Path) -> list[Holder]:
    """Who holds what, one Holder per claimed key, by key."""
    if not folder.is_dir():
        return []
    keys = sorted({path.stem for path in folder.iterdir() if path.suffix[1:].isdigit()})
    found = (holder(folder, key) for key in keys)
    return [one for one in found if one is not None]


def _take(folder: Path, key: str, label: str) -> Path | None:
    """Create the first file after those of the dead; None if somebody alive has one."""
    folder.mkdir(parents=True, exist_ok=True)
    body = {"label": label, "host": socket.gethostname(), "place": _place(), "pid": os.getpid()}
    text = json.dumps({**body, "born": _born(os.getpid()), "since": time.time()})
    for number in itertools.count(1):
        path = folder / f"{key}.{number}"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            found = _read(path)
            if found is None or found.alive:
                return None
            continue
        with os.fdopen(handle, "w") as file:
            file.write(text)
        return path
    return None


def _release(folder: Path, key: str, path: Path) -> None:
    """Remove this claim and those of the dead before it, unless it was taken over itself."""
    number = int(path.suffix[1:])
    if (folder / f"{key}.{number + 1}").exists():
        # This process was taken for dead: its file stays in its successor's row, as a dead one's.
        path.write_text("{}")
        os.utime(path, (0, 0))
        return
    for one in range(number, 0, -1):
        (folder / f"{key}.{one}").unlink(missing_ok=True)


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)


def _read(path: Path) -> Holder | None:
    """The holder that a claim's file names; None if the file is not there (any more)."""
    try:
        text, touched = path.read_text(), path.stat().st_mtime
    except FileNotFoundError:
        return None
    # Created, and not written yet: nothing is known of its holder but its sign of life.
    node = json.loads(text) if text.endswith("}") else {}
    here = node.get("place") == _place()
    alive = _lives(node) if here else _now(path.parent) - touched < LEASE
    host, pid = node.get("host", "?"), node.get("pid", 0)
    return Holder(path.stem, node.get("label", ""), host, pid, node.get("since", touched), alive)


def _lives(node: dict[str, object]) -> bool:
    """Whether the process of a claim made on this machine is there, and is that process."""
    born = _born(int(str(node["pid"])))
    return born is not None and born == node["born"]


def _born(pid: int) -> str | None:
    """When a process started, as its machine counts; None if it is gone (or a zombie)."""
    if not Path("/proc/self/stat").exists():
        return _number_in_use(pid)
    try:
        # The name, in brackets, may hold anything; the state is the first field after it.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _number_in_use(pid: int) -> str | None:
    """Where there is no /proc, that a process has this number is all that can be asked."""
    try:
        with contextlib.suppress(PermissionError):  # it is there, and somebody else's
            os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return ""


@cache
def _place() -> str:
    """What two processes share exactly if they see each other's process numbers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _now(folder: Path) -> float:
    """The time by the clock that stamps files in this folder, which may be another machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".now.") as file:
            return Path(file.name).stat().st_mtime
    except OSError:
        return time.time()
