"""`make oracles`: ask every peer, compare, write results/oracles; exit 1 if anything is amiss."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmark.provenance import commit
from tests.oracles import elementwise, matrixwise
from tests.oracles.asking import Answered, Question, compared
from tests.oracles.environments import PEERS, ROOT, ready
from tests.oracles.report import BAD, as_json, as_markdown

OUT = ROOT / "results" / "oracles"
KEPT = 20_000
"""Numbers: longer answers are compared but not kept."""
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def questions() -> list[Question]:
    """All of them, in the order of the report."""
    return [*elementwise.questions(), *matrixwise.questions()]


def inputs(asked: Sequence[Question]) -> dict[str, Tensor]:
    """The tensors of all cases by `case|name`."""
    return {
        f"{question.inputs}|{name}": value.contiguous().clone()
        for question in asked
        for name, value in question.case.items()
    }


def sha256(tensors: dict[str, Tensor]) -> str:
    """Of names, shapes and numbers, whatever the order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def put(peer: str, asked: Sequence[Question]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A peer's answers by the question's id, its versions and what it could not answer."""
    script = f"tests.oracles.ask_{peer}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(inputs(asked), folder / "inputs.safetensors")
        rows = [
            {"id": one.id, "call": one.call, "case": one.inputs, "values": dict(one.values)}
            for one in asked
        ]
        (folder / "questions.json").write_text(json.dumps(rows))
        done = subprocess.run(
            [ready(peer), "-m", script, folder],
            cwd=ROOT,
            env={**os.environ, **QUIET},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
        told = json.loads((folder / "answers.json").read_text())
        return load_file(folder / "answers.safetensors"), told


def main() -> int:
    """Ask, compare, write."""
    torch.set_num_threads(1)
    asked = questions()
    answers: dict[str, Tensor] = {}
    errors: dict[str, str] = {}
    versions: dict[str, dict[str, str]] = {}
    for peer in PEERS:
        found, told = put(peer, [one for one in asked if one.peer == peer])
        answers |= found
        errors |= told["errors"]
        versions[peer] = told["versions"]
    results = [compared(one, answers.get(one.id), errors.get(one.id, "")) for one in asked]
    write(results, answers, errors, versions, OUT)
    bad = [one for one in results if one.verdict in BAD]
    for one in bad:
        sys.stderr.write(f"{one.verdict}: {one.question.id}: {one.difference:.3g} {one.said}\n")
    sys.stderr.write(f"{len(results)} questions, {len(bad)} amiss; see {OUT}\n")
    return 1 if bad else 0


def write(
    results: Sequence[Answered],
    answers: dict[str, Tensor],
    errors: dict[str, str],
    versions: dict[str, dict[str, str]],
    out: Path,
) -> None:
    """The report in both forms, and the answers for the tests."""
    out.mkdir(parents=True, exist_ok=True)
    asked = [one.question for one in results]
    told = {**commit(), "versions": versions, "inputs_sha256": sha256(inputs(asked))}
    report = {**as_json(results, told), "errors": errors}
    (out / "oracles.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    (out / "oracles.md").write_text(as_markdown(report))
    short = {name: value for name, value in answers.items() if value.numel() <= KEPT}
    save_file(short, out / "answers.safetensors")


if __name__ == "__main__":
    sys.exit(main())
