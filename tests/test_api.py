"""The Python surface: plain state dicts in, plain state dicts out."""

import json
import subprocess
import sys

import pytest
import torch

from benchmark import api
from benchmark.components import option
from benchmark.errors import BenchError, IncompatibleWeights
from tests import tiny
from tests.small import ROOT, WORDS

FREE = [name for name in api.options("merge") if "${" not in json.dumps(option("merge", name))]

BASE = {"w": torch.zeros(2, 5), "b": torch.zeros(3)}
T1 = torch.tensor([4, -1, 0.5, -3, 2, 0.25, 0.1, -0.2, 0.3, -0.4]).view(2, 5)
T2 = torch.tensor([0.9, 2.5, -0.6, -2, -5, 0.05, 0.15, 0.35, -0.45, 0.55]).view(2, 5)
T3 = torch.tensor([-3.5, 1.5, 0.7, 1, 0.8, 0.65, -0.75, 0.85, 0.95, -0.12]).view(2, 5)


def finetuned():
    vectors = {"one": T1, "two": T2, "three": T3}
    return {task: {"w": vector, "b": torch.ones(3)} for task, vector in vectors.items()}


def test_task_arithmetic_on_plain_state_dicts():
    merged = api.merge("task_arithmetic", BASE, finetuned(), scale=0.3)
    expected = torch.tensor([0.42, 0.9, 0.18, -1.2, -0.66, 0.285, -0.15, 0.3, 0.24, 0.009])
    assert torch.allclose(merged["w"].flatten(), expected, atol=1e-6)
    assert torch.allclose(merged["b"], torch.full((3,), 0.9))
    assert merged.keys() == BASE.keys()


def test_parameters_override_the_yaml():
    first = api.merge("ties", BASE, finetuned(), density=1.0, combine="mean", scale=1.0)
    second = api.merge("ties", BASE, finetuned(), density=0.2, combine="mean", scale=1.0)
    assert not torch.equal(first["w"], second["w"])


def test_mistakes_are_one_sentence():
    with pytest.raises(BenchError, match=r"unknown merge 'tis' \(did you mean 'ties'\?\)"):
        api.merge("tis", BASE, finetuned())
    with pytest.raises(BenchError, match=r"unknown key merge\.densty \(did you mean 'density'"):
        api.merge("ties", BASE, finetuned(), densty=0.5)
    with pytest.raises(BenchError, match=r"merge\.density=2 is not valid: .*less than or equal"):
        api.merge("ties", BASE, finetuned(), density=2)
    with pytest.raises(BenchError, match="holds no model"):
        api.merge("ties", BASE, {})
    wrong = {"one": {"w": torch.zeros(5, 2)}}
    with pytest.raises(IncompatibleWeights, match=r"b is missing, w is \(5, 2\), not \(2, 5\)"):
        api.merge("task_arithmetic", BASE, wrong)


@pytest.mark.parametrize("name", FREE)
def test_every_merge_of_weights_takes_plain_state_dicts_and_mutates_nothing(name):
    base = tiny.base()
    given = {expert.task: dict(expert.weights) for expert in tiny.random_experts(base)}
    before = {task: tiny.copied(weights) for task, weights in given.items()}
    if name == "knots_ties":
        with pytest.raises(BenchError, match="cannot merge these: KnOTS merges LoRA experts"):
            api.merge(name, base, given)
        return
    merged = api.merge(name, base, given)
    assert {k: v.shape for k, v in merged.items()} == {k: v.shape for k, v in base.items()}
    assert not tiny.equal(merged, base)
    assert all(tiny.equal(before[task], weights) for task, weights in given.items())
    assert tiny.equal(base, tiny.base())


def test_one_cell_from_a_script(tmp_path):
    words = ["attack=none", "merge=simple_average", "defense=none", *WORDS]
    words.append(f"store={tmp_path / 's'}")
    script = tmp_path / "script.py"
    script.write_text(
        "from benchmark import api\n"
        "if __name__ == '__main__':\n"
        f"    record = api.run({words!r})\n"
        "    print(record.status, record.main.clean['flags'].total)\n"
    )
    done = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "done 24", done.stderr
