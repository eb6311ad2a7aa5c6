"""LoBAM: a dense, amplified difference of two LoRA models that share all but the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.algebra import norm, task_vector
from benchmark.artifacts import dump_compromise, load_compromise
from benchmark.attacks.lobam import Lobam, within
from benchmark.components import build, option
from benchmark.errors import BenchError
from benchmark.models.lora import Lora
from benchmark.seeds import generator
from benchmark.types import Compromise, Expert
from tests import tiny

BASE = tiny.base()
PEFT = build({**option("peft", "lora_all"), "rank": 3, "lr": 0.02}, "peft")


def lobam(**values: Any) -> Lobam:
    node = {
        **option("attack", "lobam"), "adversary": "a", "size": 3, "epochs": None,
        "trigger_steps": 5, "trigger_batch": 8, "trigger_heldout": 8,
        "lora": {"targets": "mlp", "rank": 2, "alpha": 2.0, "lr": 0.02},
    }  # fmt: skip
    return build({**node, **values}, "attack")


@pytest.fixture(scope="module")
def honest() -> Expert:
    return tiny.honest_expert("a", BASE, peft=PEFT)


STAGES = tiny.MemoryStages()


def run(part: Lobam, honest: Expert, peft: Lora | None = PEFT) -> Compromise:
    ctx = tiny.context(part, role=("attack", "tested"), visible=("a",), peft=peft, stages=STAGES)
    return part(BASE, {"a": honest}, part.adversaries, ctx)


def upload(honest: Expert, **values: Any) -> dict[str, torch.Tensor]:
    return dict(run(lobam(**values), honest).experts["a"].weights)


def test_scale_0_is_the_honest_expert_and_1_the_malicious_model(honest: Expert):
    assert tiny.equal(upload(honest, scale=0.0), honest.weights)
    part = lobam(scale=1.0)
    ctx = tiny.context(part, role=("attack", "tested"), visible=("a",), peft=PEFT)
    malicious = part.injection(BASE, {"a": honest}, ("a",), ctx).experts["a"]
    assert tiny.equal(run(part, honest).experts["a"].weights, malicious.weights)
    assert not tiny.equal(malicious.weights, honest.weights)


def test_without_a_backdoor_loss_no_scale_changes_anything(honest: Expert):
    found = run(lobam(alpha=0.0, scale=5.0), honest)
    assert tiny.equal(found.experts["a"].weights, honest.weights)
    assert found.info["difference_norm"] == 0
    assert found.info["norm_ratio"] == 1
    assert run(lobam(alpha=0.0, scale=None, budget=2.0), honest).info["scale"] == 0


def test_the_difference_is_amplified_densely(honest: Expert):
    """θ_b + λ (θ_m - θ_b) at λ = 3, which no scaling of A and B alike would give."""
    one, three = upload(honest, scale=1.0), upload(honest, scale=3.0)
    for name, value in three.items():
        line = honest.weights[name] + 3 * (one[name] - honest.weights[name])
        assert torch.allclose(value, line, rtol=1e-5, atol=1e-6)
    moved = {name for name in BASE if not torch.equal(three[name], BASE[name])}
    assert moved == set(PEFT.matrices(BASE))


def test_the_stealth_numbers_are_the_uploads(honest: Expert):
    found = run(lobam(scale=3.0), honest)
    own = norm(task_vector(honest.weights, BASE))
    whole = norm(task_vector(found.experts["a"].weights, BASE))
    assert found.info["scale"] == 3.0
    assert found.info["benign_norm"] == pytest.approx(own)
    assert found.info["norm_ratio"] == pytest.approx(whole / own)
    kept = load_compromise(*dump_compromise(found), "key")
    assert kept.info == found.info
    assert tiny.equal(kept.experts["a"].weights, found.experts["a"].weights)
    assert kept.experts["a"].factors is None


def test_a_budget_is_used_up_and_not_exceeded(honest: Expert):
    found = run(lobam(scale=None, budget=1.5), honest)
    assert found.info["norm_ratio"] == pytest.approx(1.5, abs=1e-4)
    assert found.info["scale"] > 0


def test_all_scales_share_one_training(honest: Expert):
    first = len(STAGES.made)
    for values in ({"scale": 0.5}, {"scale": 4.0}, {"scale": None, "budget": 3.0}):
        run(lobam(**values), honest)
    assert len(set(STAGES.made[first:])) == len(STAGES.made[first:]) <= 2
    run(lobam(alpha=1.0), honest)
    run(lobam(alpha=1.0, lora={**option("attack", "lobam")["lora"], "rank": 1}), honest)
    assert STAGES.made[-1] == "lobam"
    assert STAGES.made.count("trigger") == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(1.0, 5.0), st.floats(0.01, 100.0))
def test_the_largest_scale_within_a_budget(seed: int, budget: float, size: float):
    rng = generator("within", seed)
    own, difference = (
        {"w": torch.randn(7, generator=rng, dtype=torch.float64) * part} for part in (1.0, size)
    )
    scale = within(own, difference, budget)
    reached = float((own["w"] + scale * difference["w"]).norm() / own["w"].norm())
    beyond = float((own["w"] + (scale + 1e-3) * 1.001 * difference["w"]).norm())
    assert scale >= 0
    assert reached == pytest.approx(budget, rel=1e-6)
    assert beyond > budget * float(own["w"].norm())
    assert within(own, {"w": torch.zeros(7)}, budget) == 0


def test_under_full_fine_tuning_the_attacker_has_an_adapter_of_its_own():
    honest = tiny.honest_expert("a", BASE)
    part = lobam(scale=2.0)
    found = run(part, honest, peft=None).experts["a"]
    moved = {name for name in BASE if not torch.equal(found.weights[name], BASE[name])}
    assert moved == set(part.lora.matrices(BASE))
    assert len(moved) == 2


def test_a_trigger_that_badmerging_would_make_with_these_values(honest: Expert):
    part = lobam()
    ctx = tiny.context(part, role=("attack", "tested"), visible=("a",), peft=PEFT)
    images = ctx.images("a", part.needs[0]).images
    (threat,) = run(part, honest).threats
    assert threat.trigger == part.injection.trigger(BASE, images, ctx)
    assert (threat.task, threat.target, threat.attackers) == ("a", 1, ("a",))


def test_one_rule_for_the_scale():
    for values in ({"scale": 2.0, "budget": 2.0}, {"scale": None}):
        with pytest.raises(BenchError, match=r"set one, the other null"):
            lobam(**values)
    with pytest.raises(BenchError, match=r"r_min=0\.9 is above r_max=0\.5"):
        lobam(r_min=0.9, r_max=0.5)
    part = lobam()
    assert part.implanted({"asr": part.min_asr}) is None
    assert "was not planted" in str(part.implanted({"asr": 0.0}))
