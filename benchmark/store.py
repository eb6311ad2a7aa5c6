"""A content-addressed store of stage results: same inputs, same address; incomplete is invisible.

An artifact is a dict of tensors and a plain-JSON `info`. It lives in two files,
`<root>/artifacts/<stage>/<key>.safetensors` and `<key>.json`. Both are written to a temporary name
and then renamed, the JSON last: an artifact exists when its JSON does. The JSON holds the sha256 of
the tensors, checked at every load. A claim per key (benchmark.claims) keeps two processes, on one
machine or several, from computing the same thing twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import claims
from benchmark.errors import BenchError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
Artifact = tuple[dict[str, "Tensor"], dict[str, Any]]
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
WAIT = 0.2  # seconds between two looks at what another process is computing


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return _CANONICAL.encode(value)


def key_of(stage: str, version: int, inputs: Mapping[str, Any]) -> str:
    """The address of a stage's result: 32 hex digits of the sha256 over all that defines it."""
    text = canonical({"stage": stage, "version": version, "inputs": inputs})
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_atomic(path: Path, data: bytes) -> None:
    """Write to a temporary file in the same folder, then rename over `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SETTLED = 2.0
"""Seconds after which another change to a file has another time, on any usual file system."""


def content_sha256(path: Path) -> str:
    """The same, read again only after the file changed: a sweep asks for every cell.

    Times of files are coarse: one that has just been written is not taken for known.
    """
    stat = path.stat()
    if time.time() - stat.st_mtime < SETTLED:
        return file_sha256(path)
    return _known_sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _known_sha256(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


class Store:
    """The artifacts and records below one folder."""

    def __init__(self, root: Path | str, made: Mapping[str, Any] | None = None) -> None:
        """Open (or promise) a store.

        Args:
            root: its folder; created when something is first written.
            made: provenance (commit, versions, ...) that is written beside every new artifact.
        """
        self.root = Path(root).expanduser().resolve()
        self.made = dict(made or {})

    def check_writable(self) -> None:
        """Raise one sentence if nothing can be written here."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.root, prefix=".probe.")
            os.close(handle)
            Path(name).unlink()
        except OSError as error:
            raise BenchError(
                f"store={self.root} cannot be written ({error.strerror}); "
                "give a writable folder with store=DIR or LFPM_BENCH_STORE"
            ) from error

    @property
    def claims(self) -> Path:
        """The folder of claims: what is being computed (see benchmark.claims)."""
        return self.root / "claims"

    def log(self, key: str) -> Path:
        """Where warnings and tracebacks of a job go."""
        return self.root / "logs" / f"{key}.log"

    def path(self, stage: str, key: str) -> Path:
        """Where the JSON of an artifact is (or would be)."""
        return self.root / "artifacts" / stage / f"{key}.json"

    def has(self, stage: str, key: str) -> bool:
        """Whether the artifact is complete."""
        return self.path(stage, key).exists()

    def load(self, stage: str, key: str) -> Artifact | None:
        """The artifact, or None if absent. A corrupt one is moved aside, named in the log."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        sidecar = self.path(stage, key)
        if not sidecar.exists():
            return None
        tensors = sidecar.with_suffix(".safetensors")
        try:
            meta = json.loads(sidecar.read_text())
            if file_sha256(tensors) != meta["sha256"]:
                raise ValueError("its sha256 differs from the one recorded")
            return load_file(tensors), meta["info"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            self._move_aside(sidecar, tensors, error)
            return None

    def _move_aside(self, sidecar: Path, tensors: Path, error: Exception) -> None:
        corrupt = self.root / "corrupt"
        corrupt.mkdir(exist_ok=True)
        for path in (sidecar, tensors):
            if path.exists():
                path.replace(corrupt / path.name)
        log.warning(
            "corrupt artifact %s (%s): moved to %s, recomputing it", tensors, error, corrupt
        )

    def info(self, stage: str, key: str) -> dict[str, Any]:
        """The whole JSON of an artifact that exists: `info`, `inputs`, `made`. Needs no torch."""
        return json.loads(self.path(stage, key).read_text())

    def save(
        self,
        stage: str,
        key: str,
        artifact: Artifact,
        inputs: Mapping[str, Any],
        spent: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an artifact: tensors first, then the JSON that makes it exist."""
        from safetensors.torch import save

        tensors, info = artifact
        sidecar = self.path(stage, key)
        data = save(_apart(tensors))
        write_atomic(sidecar.with_suffix(".safetensors"), data)
        meta = {"stage": stage, "key": key, "sha256": hashlib.sha256(data).hexdigest()}
        made = {**self.made, **(spent or {})}
        body = {**meta, "inputs": dict(inputs), "info": info, "made": made}
        write_atomic(sidecar, json.dumps(body, indent=1, allow_nan=False).encode())

    def stage(
        self,
        name: str,
        version: int,
        inputs: Mapping[str, Any],
        make: Callable[[], Artifact],
        measure: Callable[[], Mapping[str, Any]] | None = None,
    ) -> Artifact:
        """Load the artifact of (name, version, inputs), or make, keep and return it.

        Args:
            name: the stage; its folder.
            version: raised by hand whenever the stage's code changes what it computes.
            inputs: plain JSON, everything the result depends on (parents by their keys).
            make: computes (tensors, info) when nobody has; runs under a claim on this key.
            measure: called after `make`; what it cost, written beside the artifact.
        """
        key = key_of(name, version, inputs)
        while True:
            found = self.load(name, key)
            if found is not None:
                return found
            with claims.claimed(self.claims, key, name) as ours:
                if ours:
                    return self._made(name, key, inputs, make, measure)
            time.sleep(WAIT)

    def _made(
        self,
        name: str,
        key: str,
        inputs: Mapping[str, Any],
        make: Callable[[], Artifact],
        measure: Callable[[], Mapping[str, Any]] | None,
    ) -> Artifact:
        """Make and keep an artifact; the one of whoever held the claim before, if it is there."""
        found = self.load(name, key)
        if found is None:
            artifact = make()
            self.save(name, key, artifact, inputs, measure() if measure else None)
            found = self.load(name, key)
        if found is None:
            raise BenchError(f"{self.path(name, key)} could not be read back after writing")
        return found


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, with a copy where two lie in one memory: the format refuses that."""
    kept: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        kept[name] = own.clone() if place in seen else own
        seen.add(place)
    return kept
