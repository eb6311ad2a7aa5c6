"""Where base weights lie, and how their files are read: nothing is fetched, nothing is executed."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BadCheckpoint, BenchError

if TYPE_CHECKING:
    from torch import Tensor

PACKAGE, HUB = "package:", "hub:"
"""Prefixes of weights that are shipped in `benchmark/weights`, and of files on Hugging Face."""
NO_WEIGHTS = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Numbers that OpenAI's own files keep beside the weights."""


def locate_weights(weights: str) -> Path:
    """The file behind `package:NAME`, `hub:OWNER/REPO/FILE` (in the local cache) or a path.

    Raises:
        BenchError: a file on the hub that was never downloaded; with the command that does it.
    """
    if weights.startswith(PACKAGE):
        return Path(__file__).parents[1] / "weights" / weights.removeprefix(PACKAGE)
    if not weights.startswith(HUB):
        return Path(weights).expanduser()
    from huggingface_hub import try_to_load_from_cache

    repo, file = hub_file(weights)
    found = try_to_load_from_cache(repo, file)
    if not isinstance(found, str):
        raise BenchError(
            f"backbone.weights={weights} is not in the Hugging Face cache; run `hf download {repo} "
            f"{file}` where there is a network, or give backbone.weights=FILE"
        )
    return Path(found)


def hub_file(weights: str) -> tuple[str, str]:
    """("OWNER/REPO", "FILE") of `hub:OWNER/REPO/FILE`.

    Raises:
        ValueError: it has another form.
    """
    owner, _, rest = weights.removeprefix(HUB).partition("/")
    repo, _, file = rest.partition("/")
    if not (owner and repo and file):
        raise ValueError(f"'{weights}' is not of the form hub:OWNER/REPO/FILE")
    return f"{owner}/{repo}", file


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint as float32, by open_clip's names.

    Reads safetensors; state dicts saved by torch, bare or in a training checkpoint's
    `state_dict`, with or without `module.`; and the TorchScript archives that OpenAI published.

    Raises:
        BadCheckpoint: something else, or a pickle that holds more than tensors.
    """
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {".safetensors": _safetensors}
    try:
        found = readers.get(path.suffix, _torch)(path)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise BadCheckpoint(
            f"{path} cannot be read as weights ({_reason(error)}); give safetensors or a state "
            "dict (`lfpm-bench import-checkpoint` reads whole-model pickles safely)"
        ) from error
    import torch

    strange = [name for name, value in found.items() if not isinstance(value, torch.Tensor)]
    if strange or not found:
        raise BadCheckpoint(
            f"{path} holds no state dict ('{(strange or ['nothing'])[0]}' is no tensor); give one"
        )
    return {name: value.float() for name, value in found.items() if name not in NO_WEIGHTS}


def _reason(error: Exception) -> str:
    """The one line that says why; torch's begins with advice to read the file unsafely."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no pickle of plain tensors"
    said = str(error).strip()
    is_line = said and not isinstance(error, KeyError)  # of a byte that is no pickle's
    return said.splitlines()[0][:200] if is_line else "it is no file of torch's"


def stated_activation(path: Path) -> str | None:
    """What a safetensors file says of itself: "quickgelu", "gelu" or, mostly, nothing."""
    if path.suffix != ".safetensors":
        return None
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return (file.metadata() or {}).get("activation")


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file: {error}") from error


def _torch(path: Path) -> dict[str, Any]:
    """A pickle of tensors, read without running anything in it."""
    import torch

    if _is_script(path):
        with warnings.catch_warnings():  # deprecated, but it is what OpenAI published
            warnings.simplefilter("ignore")
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    found: Any = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}")
    return {str(name).removeprefix("module."): value for name, value in found.items()}


def _is_script(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
