"""What runs in a peer's environment: read the questions, call the peer, write its answers.

Needs torch and safetensors only, so that it works beside any version of anything else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Call = Callable[..., Tensor]
"""(tensors of the case by name, **values) -> the peer's answer."""


def serve(calls: Mapping[str, Call], package: str) -> None:
    """Answer `questions.json` of the folder in argv[1] about `inputs.safetensors`.

    Leaves `answers.safetensors` and `answers.json`: versions, and what could not be answered.
    """
    folder = Path(sys.argv[1])
    inputs = load_file(folder / "inputs.safetensors")
    answers: dict[str, Tensor] = {}
    errors: dict[str, str] = {}
    for question in json.loads((folder / "questions.json").read_text()):
        case = named(inputs, question["case"])
        try:
            answer = calls[question["call"]](case, **question["values"])
            answers[question["id"]] = answer.detach().double().contiguous().clone()
        except Exception as error:  # whatever a peer says to bad input is its answer
            errors[question["id"]] = f"{type(error).__name__}: {error}".splitlines()[0]
    save_file(answers, folder / "answers.safetensors")
    versions = {name: version(name) for name in (package, "torch", "numpy")}
    told = {"versions": versions, "errors": errors}
    (folder / "answers.json").write_text(json.dumps(told, indent=1))


def named(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below `prefix|`, as fresh copies, without it."""
    start = f"{prefix}|"
    return {
        name.removeprefix(start): value.clone()
        for name, value in tensors.items()
        if name.startswith(start)
    }


def state_dicts(case: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The state dicts of a case of `models`: the base first."""
    count = 1 + max(int(name.split("/")[0]) for name in case)
    return [
        {
            name.split("/", 1)[1]: value
            for name, value in case.items()
            if name.startswith(f"{index}/")
        }
        for index in range(count)
    ]


def flat(weights: Mapping[str, Tensor]) -> Tensor:
    """All tensors as one vector, in sorted order of their names."""
    return torch.cat([weights[name].detach().reshape(-1) for name in sorted(weights)])


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute changed for a while: how a peer that draws is given our draws."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
