"""Published shapes with random weights on two cores: every kind of work in bounded memory."""

import json
import subprocess
import sys

import pytest

from tests.small import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def spent(*words: str) -> dict:
    """What `python -m tests.scale WORDS` says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.scale", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["simple_average", "task_arithmetic", "ties"])
def test_eight_experts_are_merged_below_8_gib(name):
    found = spent("merge", name)
    assert found["finite"]
    assert found["parameters"] == 87_849_216
    assert found["peak_gib"] < 8


def test_an_evaluation_of_256_images():
    found = spent("evaluation")
    assert found["images"] == 256
    assert found["peak_gib"] < 4


def test_a_step_of_badmerging_in_micro_batches():
    """Every tensor moves; activations are those of 32 images, not of 192."""
    found = spent("badmerging", "1", "--micro-batch", "32")
    assert found["trained"] == found["tensors"] == 152
    assert found["peak_gib"] < 6


def test_lfpm_for_a_step_below_12_gib():
    found = spent("lfpm", "1", "--micro-batch", "8")
    assert found["steps"] == 1
    assert found["peak_gib"] < 12
