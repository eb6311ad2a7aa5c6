"""Sparse backdoor vectors: the mask, the length, and pairs that share all but the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.algebra import add, flatten, norm, task_vector
from benchmark.attacks.sbv import Sbv, combined
from benchmark.components import build, option
from benchmark.errors import BenchError
from benchmark.seeds import generator
from benchmark.types import Compromise, Expert
from tests import tiny

BASE = tiny.base()


def attack(**values: Any) -> Sbv:
    few = {
        "adversary": "a", "target": 1, "size": 4, "epochs": None,
        "trigger_steps": 3, "trigger_batch": 8, "trigger_heldout": 8,
    }  # fmt: skip
    return build({**option("attack", "sbv"), **few, **values}, "attack")


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {"a": tiny.honest_expert("a", BASE)}


STAGES = tiny.MemoryStages()


def run(part: Sbv, honest: dict[str, Expert], **settings: Any) -> Compromise:
    given = {"stages": STAGES, **settings}
    ctx = tiny.context(part, role=("attack", "tested"), visible=("a",), **given)
    return part(BASE, honest, part.adversaries, ctx)


def vectors(seed: int, count: int) -> list[dict[str, torch.Tensor]]:
    rng = generator("vectors", seed)
    return [
        {name: torch.randn(size, generator=rng, dtype=torch.float64) for name, size in
         (("b", (4,)), ("a", (2, 3)))}
        for _ in range(count)
    ]  # fmt: skip


@given(st.integers(0, 999))
def test_one_vector_unmasked_is_itself(seed: int):
    (one,) = vectors(seed, 1)
    for mask in ("sign", "top"):
        found = combined([one], mask, 1.0)
        assert found.keys() == one.keys()
        assert all(torch.equal(found[name], one[name]) for name in one)


@given(st.integers(0, 999), st.integers(1, 4), st.floats(0.01, 1.0))
def test_top_keeps_the_largest_share_of_the_mean(seed: int, count: int, keep: float):
    several = vectors(seed, count)
    mean = sum(flatten(one) for one in several) / count
    assert isinstance(mean, torch.Tensor)
    found = flatten(combined(several, "top", keep))
    kept = found != 0
    assert int(kept.sum()) == math.ceil(keep * 10)
    assert torch.allclose(found[kept], mean[kept])
    if not kept.all():
        assert mean[kept].abs().min() >= mean[~kept].abs().max()


def test_ties_are_all_kept():
    one = {"a": torch.tensor([2.0, -2.0, 1.0, 2.0], dtype=torch.float64)}
    assert combined([one], "top", 0.25)["a"].tolist() == [2, -2, 0, 2]


@given(st.integers(0, 999), st.integers(2, 5))
def test_sign_keeps_what_all_vectors_agree_on(seed: int, count: int):
    several = vectors(seed, count)
    several[0]["b"][0] = 0.0
    found = flatten(combined(several, "sign", 0.5))
    rows = torch.stack([flatten(one) for one in several])
    agreed = (rows > 0).all(0) | (rows < 0).all(0)
    assert torch.equal(found != 0, agreed)
    assert torch.allclose(found[agreed], rows.mean(0)[agreed])


def test_one_vector_gives_badmergings_model_and_length_0_the_benign_one(honest: dict[str, Expert]):
    found = run(attack(vectors=1), honest)
    planted = attack().injection
    ctx = tiny.context(planted, role=("attack", "tested"), visible=("a",), stages=STAGES)
    malicious = planted(BASE, honest, ("a",), ctx).experts["a"].weights
    for name, value in found.experts["a"].weights.items():
        assert torch.allclose(value, malicious[name], atol=1e-6)
    assert found.info["scale"] == pytest.approx(1)
    none = run(attack(vectors=1, length=0.0), honest)
    assert tiny.equal(none.experts["a"].weights, honest["a"].weights)
    (threat,) = found.threats
    assert (threat.task, threat.target, threat.attackers) == ("a", 1, ("a",))


def test_the_upload_is_as_long_as_it_says(honest: dict[str, Expert]):
    for mask in ("sign", "top"):
        found = run(attack(vectors=3, mask=mask, keep=0.3, length=1.5), honest)
        added = task_vector(found.experts["a"].weights, dict(honest["a"].weights))
        first = found.info["vector_norms"][0]
        assert norm(added) == pytest.approx(1.5 * first, rel=1e-3)
        share = float((flatten(added) != 0).double().mean())
        assert share == pytest.approx(found.info["kept"], abs=0.02)
        assert 0.2 < found.info["kept"] < 0.9 if mask == "sign" else share < 0.31


def test_without_a_backdoor_loss_nothing_is_added(honest: dict[str, Expert]):
    found = run(attack(alpha=0.0, vectors=2), honest)
    assert tiny.equal(found.experts["a"].weights, honest["a"].weights)
    assert found.info["scale"] == 0


def test_pairs_are_shared_between_masks_and_differ_from_each_other(honest: dict[str, Expert]):
    stages = tiny.MemoryStages()
    run(attack(vectors=2), honest, stages=stages)
    run(attack(vectors=3, mask="top", length=2.0), honest, stages=stages)
    assert stages.made == ["trigger", *["backdoor_pair"] * 3]
    kept = [tensors for tensors, _ in stages.kept.values() if "patch" not in tensors]
    assert not torch.equal(kept[0]["malicious/proj"], kept[1]["malicious/proj"])
    assert torch.equal(kept[0]["benign/proj"], honest["a"].weights["proj"])


def test_adding_in_float64_gives_the_malicious_weights_back():
    benign, malicious = tiny.base(0), tiny.base(1)
    vector = combined([task_vector(malicious, benign)], "top", 1.0)
    assert tiny.equal(add(benign, vector, 1.0), malicious)


def test_it_judges_its_own_model_and_refuses_an_empty_range():
    part = attack()
    assert (part.adversaries, part.victim) == (("a",), ("a", 1))
    assert part.implanted({"asr": part.min_asr}) is None
    assert "was not planted" in str(part.implanted({"asr": 0.1}))
    with pytest.raises(BenchError, match=r"r_min=0\.9 is above r_max=0\.5"):
        attack(r_min=0.9, r_max=0.5)
