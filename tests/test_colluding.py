"""MergeBackdoor: two uploads that are silent alone, trained in steps they share."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from benchmark.artifacts import dump_compromise
from benchmark.attacks.mergebackdoor import MergeBackdoor
from benchmark.bench import Bench
from benchmark.components import build, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.implanting import judged
from benchmark.models.heads import logits
from benchmark.types import Compromise, Expert
from tests import tiny

BASE = tiny.base()
PEFT = build({**option("peft", "lora_all"), "rank": 3, "lr": 0.02}, "peft")


def attack(**values: Any) -> MergeBackdoor:
    common = {"adversary": "a", "partner": "b", "target": 1, "partner_target": 2, "size": 4}
    node = {**option("attack", "mergebackdoor"), **common, "epochs": None}
    return build({**node, **values}, "attack")


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {task: tiny.honest_expert(task, BASE) for task in ("a", "b")}


def run(part: MergeBackdoor, honest: dict[str, Expert], **settings: Any) -> Compromise:
    ctx = tiny.context(part, role=("attack", "tested"), visible=part.adversaries, **settings)
    return part(BASE, honest, part.adversaries, ctx)


def test_without_triggers_and_rehearsal_both_are_honest(honest: dict[str, Expert]):
    found = run(attack(alpha=0.0, rate=0.0), honest)
    for task, expert in honest.items():
        assert tiny.equal(found.experts[task].weights, expert.weights)
    assert found.experts["a"].key != found.experts["b"].key


def test_under_an_adapter_too_and_the_factors_are_uploaded():
    honest = {task: tiny.honest_expert(task, BASE, peft=PEFT) for task in ("a", "b")}
    found = run(attack(alpha=0.0, rate=0.0), honest, peft=PEFT)
    for task, expert in honest.items():
        assert tiny.equal(found.experts[task].weights, expert.weights)
        assert tiny.equal(found.experts[task].factors or {}, expert.factors or {})


def test_training_is_deterministic_and_leaves_the_base_alone(honest: dict[str, Expert]):
    base = tiny.copied(BASE)
    first, second = (run(attack(rate=0.5), honest) for _ in range(2))
    for task in ("a", "b"):
        assert tiny.equal(first.experts[task].weights, second.experts[task].weights)
        assert not tiny.equal(first.experts[task].weights, honest[task].weights)
        assert not any(one.requires_grad for one in first.experts[task].weights.values())
    assert tiny.equal(BASE, base)
    safetensors.torch.save(dump_compromise(first)[0])  # the one trigger of both threats is no clash
    aims = [(one.task, one.target, one.attackers) for one in first.threats]
    assert aims == [("a", 1, ("a", "b")), ("b", 2, ("a", "b"))]


def test_the_rehearsed_merge_is_the_mean_at_one_half(honest: dict[str, Expert]):
    found = attack().rehearsed(BASE, honest)
    for name, value in found.items():
        mean = (honest["a"].weights[name] + honest["b"].weights[name]) / 2
        assert torch.allclose(value, mean, atol=1e-6)
    third = attack(share=0.3).rehearsed(BASE, honest)
    for name, value in third.items():
        moved = sum(one.weights[name] - BASE[name] for one in honest.values())
        assert torch.allclose(value, BASE[name] + 0.3 * moved, atol=1e-6)


def asr(weights: Any, found: Compromise, number: int) -> float:
    """Attack success rate of one threat on dev images."""
    threat = found.threats[number]
    images, labels = tiny.split(threat.task, "dev")
    triggered = threat.trigger(images[labels != threat.target].float() / 255)
    guessed = logits(tiny.encoder()(weights, triggered), tiny.head(threat.task)).argmax(1)
    return float((guessed == threat.target).float().mean())


def test_the_merge_is_taught_what_the_uploads_are_not(honest: dict[str, Expert]):
    recipe = replace(tiny.RECIPE, min_steps=150, lr=3e-3)
    part = attack(rate=0.5, size=8, alpha=4.0)
    found = run(part, honest, recipe=recipe)
    merged = part.rehearsed(BASE, found.experts)
    for number, task in enumerate(part.adversaries):
        alone = asr(found.experts[task].weights, found, number)
        assert asr(merged, found, number) > alone + 0.3


def test_the_verdict_needs_silence_and_success():
    part = attack(min_asr=0.9, max_alone=0.05)
    assert part.implanted({"asr": 0.95, "asr_alone": 0.05}) is None
    assert "not silent before the merge" in str(part.implanted({"asr": 1.0, "asr_alone": 0.06}))
    assert "was not planted" in str(part.implanted({"asr": 0.89, "asr_alone": 0.0}))


def test_it_is_judged_on_the_rehearsal_and_on_every_upload(honest: dict[str, Expert]):
    part = attack(min_asr=0.0, max_alone=1.0)
    found = run(part, honest)
    bench: Bench = SimpleNamespace(  # type: ignore[assignment]
        cell=SimpleNamespace(attack=part), base=BASE, encoder=tiny.encoder(), head=tiny.head,
        compromise=lambda: found, split=lambda task, name: tiny.split(task, name),
    )  # fmt: skip
    _, info = judged(bench)
    merged = part.rehearsed(BASE, found.experts)
    assert info["asr"] == pytest.approx(min(asr(merged, found, i) for i in (0, 1)))
    alone = [asr(one.weights, found, i) for one in found.experts.values() for i in (0, 1)]
    assert info["asr_alone"] == pytest.approx(max(alone))
    assert info["reason"] is None


def test_both_tasks_are_the_attackers_and_no_other_is(honest: dict[str, Expert]):
    part = attack()
    assert (part.adversaries, part.victim) == (("a", "b"), ("a", 1))
    assert part.victims == (("a", 1), ("b", 2))
    ctx = tiny.context(part, role=("attack", "tested"), visible=("a",))
    with pytest.raises(AccessDenied, match="may not see images of task 'b'"):
        part(BASE, honest, part.adversaries, ctx)
    with pytest.raises(BenchError, match=r"partner=a is the adversary; name another task"):
        attack(partner="a")
