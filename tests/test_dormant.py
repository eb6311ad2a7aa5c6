"""The dormant attack: asleep on clean models, planted along a line of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.attacks.dormant import Dormant, awake, class_direction, drifted
from benchmark.components import build, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.models.heads import logits
from benchmark.seeds import generator
from benchmark.types import Compromise, Expert, Grant
from tests import tiny

BASE = tiny.base()


def attack(**values: Any) -> Dormant:
    common = {
        "adversary": "a", "target": 1, "size": 4, "epochs": None,
        "trigger_steps": 5, "trigger_batch": 8, "trigger_heldout": 8,
    }  # fmt: skip
    return build({**option("attack", "dormant"), **common, **values}, "attack")


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {"a": tiny.honest_expert("a", BASE)}


def run(part: Dormant, honest: Mapping[str, Expert], **settings: Any) -> Compromise:
    ctx = tiny.context(part, role=("attack", "tested"), visible=part.adversaries, **settings)
    return part(BASE, honest, part.adversaries, ctx)


# -- the penalty


def test_the_penalty_is_the_mean_margin_above_zero():
    scores = torch.tensor([[1.0, 3.0, 2.0], [5.0, 3.0, 2.0], [0.0, 0.5, 0.0]])
    assert float(awake(scores, 1, 0.0)) == pytest.approx((1.0 + 0 + 0.5) / 3)
    assert float(awake(scores, 1, 1.0)) == pytest.approx((2.0 + 0 + 1.5) / 3)
    assert float(awake(scores, 0, 0.0)) == pytest.approx(2.0 / 3)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99), st.floats(0, 3))
def test_no_penalty_and_no_gradient_while_the_target_is_below(classes: int, seed: int, gap: float):
    rng = generator("margins", seed)
    scores = torch.randn(7, classes, generator=rng)
    target = seed % classes
    scores[:, target] = scores.amin(1) - gap - 0.1
    scores.requires_grad_()
    penalty = awake(scores, target, gap)
    (gradient,) = torch.autograd.grad(penalty, scores)
    assert float(penalty.detach()) == 0
    assert not gradient.any()
    assert float(awake(scores.detach(), target, gap + 100)) > 0


def test_the_direction_is_the_unit_difference_of_class_means():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0], [1.0, 5.0]])
    found = class_direction(features, torch.tensor([0, 2, 1, 1]), 1)
    assert torch.allclose(found, torch.tensor([0.0, 1.0]))
    for labels in ([1, 1, 1, 1], [0, 0, 0, 0]):
        with pytest.raises(BenchError, match=r"choose another attack\.target"):
            class_direction(features, torch.tensor(labels), 1)


def test_drift_has_the_length_it_says_per_tensor():
    lengths = {name: 0.5 + i for i, name in enumerate(BASE)}
    moved = drifted(BASE, lengths, 0.2, generator("drift"))
    for name, value in BASE.items():
        assert float((moved[name] - value).norm()) == pytest.approx(0.2 * lengths[name], rel=1e-3)
    assert tiny.equal(drifted(BASE, lengths, 0.0, generator("drift")), BASE)


# -- the attack


def test_alpha_zero_is_the_honest_expert(honest: dict[str, Expert]):
    found = run(attack(alpha=0.0), honest).experts["a"]
    assert tiny.equal(found.weights, honest["a"].weights)
    assert found.key != honest["a"].key


def test_base_and_clean_expert_are_left_alone_and_runs_repeat(honest: dict[str, Expert]):
    base, clean = tiny.copied(BASE), tiny.copied(honest["a"].weights)
    first, second = (run(attack(), honest) for _ in range(2))
    assert tiny.equal(BASE, base)
    assert tiny.equal(honest["a"].weights, clean)
    assert all(value.grad is None for value in BASE.values())
    assert tiny.equal(first.experts["a"].weights, second.experts["a"].weights)
    assert not tiny.equal(first.experts["a"].weights, clean)
    (threat,) = first.threats
    assert threat == second.threats[0]
    assert (threat.task, threat.target, threat.attackers) == ("a", 1, ("a",))


def test_the_trigger_is_a_picture_and_a_stage_of_the_clean_expert(honest: dict[str, Expert]):
    stages = tiny.MemoryStages()
    trigger = run(attack(), honest, stages=stages).threats[0].trigger
    assert run(attack(alpha=1.0, a_min=0.5), honest, stages=stages).threats[0].trigger == trigger
    assert stages.made == ["dormant_trigger"]
    patch = trigger.tensors()["patch"]
    assert torch.equal((patch * 255).round() / 255, patch)
    assert 0 <= float(patch.min()) <= float(patch.max()) <= 1
    images = torch.rand(2, 3, tiny.SIDE, tiny.SIDE, generator=generator("images"))
    assert torch.equal(trigger(images)[..., :12, :], images[..., :12, :])
    assert torch.equal(trigger(images)[..., :, :12], images[..., :, :12])
    other = {"a": Expert("a", BASE, "another")}
    run(attack(), other, stages=stages)
    assert stages.made == ["dormant_trigger", "dormant_trigger"]


def test_dormancy_lowers_the_margins_of_clean_models(honest: dict[str, Expert]):
    images, _ = tiny.split("a", "train")
    reserve, found = 5.0, {}
    for weight in (0.0, 20.0):
        part = attack(
            size=8, trigger_steps=60, trigger_lr=0.3, dormancy=weight, reserve=reserve, alpha=0.0
        )
        triggered = run(part, honest).threats[0].trigger(images.float() / 255)
        found[weight] = [
            float(awake(logits(tiny.encoder()(one, triggered), tiny.head("a")), 1, reserve))
            for one in (BASE, honest["a"].weights)
        ]
    assert sum(found[20.0]) < 0.7 * sum(found[0.0])


def test_it_sees_its_own_task_only_and_refuses_an_empty_range(honest: dict[str, Expert]):
    part = attack()
    assert (part.adversaries, part.victim) == (("a",), ("a", 1))
    assert part.needs == (Grant("train", labels=True),)
    assert part.implanted({"asr": part.min_asr}) is None
    assert "was not planted" in str(part.implanted({"asr": 0.5}))
    ctx = tiny.context(part, role=("attack", "tested"), visible=("b",))
    with pytest.raises(AccessDenied, match="may not see images of task 'a'"):
        part(BASE, honest, part.adversaries, ctx)
    with pytest.raises(BenchError, match=r"a_min=0\.9 is above a_max=0\.5"):
        attack(a_min=0.9, a_max=0.5)
