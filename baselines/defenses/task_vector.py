"""Any task vector from a file, added to the merged model (Ilharco et al., ICLR 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from benchmark.algebra import add, first_faults, norm
from benchmark.components import component
from benchmark.errors import BenchError
from benchmark.types import Expert, Grant, Merge, Model, Place, StateDict

if TYPE_CHECKING:
    from benchmark.context import Context


@component
class TaskVector:
    """θ_m + λ τ with τ read from disk: an anti-backdoor vector is an ordinary task vector.

    It asks for no images: whatever the vector was made from is told by the file's own metadata,
    which goes into the record. The file's content, not its path, is part of a cell's key.

    Attributes:
        file: safetensors with the names and shapes of the encoder's floating-point tensors, as
            `lfpm-bench export-vector` writes them; null: the cell is skipped.
        scale: λ; 0 returns the merged model.
    """

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"
    file: str | None
    scale: Annotated[float, Field(ge=-10, le=10)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """No images."""
        return ()

    @property
    def files(self) -> dict[str, Path]:
        """What it reads."""
        if self.file is None:
            return {}
        path = Path(self.file).expanduser()
        if not path.is_file():
            raise BenchError(
                f"defense.file={self.file} cannot be read: there is no such file; "
                "write one with `lfpm-bench export-vector`"
            )
        return {"file": path}

    def accepts(self, merge: Merge) -> str | None:
        """Any merge, if there is a vector to add."""
        return None if self.file else "defense.file is null: give a safetensors file"

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Add the scaled vector."""
        model = merge(base, experts, ctx)
        vector, said = self._read(ctx.device)
        floats = {k: v for k, v in model.encoder.items() if v.is_floating_point()}
        if faults := first_faults(floats, vector):
            raise BenchError(f"defense.file={self.file} does not fit the merged model: {faults}")
        info = {"norm": norm(vector), "file": said, "merge": dict(model.info)}
        return replace(model, encoder=add(model.encoder, vector, self.scale), info=info)

    def _read(self, device: str) -> tuple[StateDict, Mapping[str, Any]]:
        """The vector, and the file's metadata."""
        from safetensors import SafetensorError, safe_open

        path = self.files["file"]
        try:
            with safe_open(path, framework="pt", device=device) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise BenchError(
                f"defense.file={self.file} is no safetensors file ({error})"
            ) from error
