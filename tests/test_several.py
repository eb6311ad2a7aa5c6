"""Several backdoors at once: planted together, counted apart."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmark.attacks.badmerging_on import BadMergingOn
from benchmark.attacks.several import Several
from benchmark.bench import Bench
from benchmark.components import build, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.evaluation import TestSet, evaluate
from benchmark.models.heads import logits
from benchmark.types import Compromise, Expert
from tests import tiny

BASE = tiny.base()
FEW = {"epochs": None, "trigger_steps": 3, "trigger_batch": 8, "trigger_heldout": 8}
FIRST = {"adversary": "a", "target": 1, "place": "bottom_right", "size": 4}
SECOND = {"adversary": "a", "target": 2, "place": "top_left", "size": 3}
THIRD = {"adversary": "b", "target": 0, "place": "center", "size": 4}


def attack(*plants: dict[str, Any], **values: Any) -> Several:
    node = {**option("attack", "several"), **FEW, "plants": list(plants), **values}
    return build(node, "attack")


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {task: tiny.honest_expert(task, BASE) for task in ("a", "b")}


def run(part: Any, honest: dict[str, Expert], **settings: Any) -> Compromise:
    ctx = tiny.context(part, role=("attack", "tested"), visible=part.adversaries, **settings)
    return part(BASE, honest, part.adversaries, ctx)


def test_one_plant_is_badmerging_on(honest: dict[str, Expert]):
    same = {k: v for k, v in option("attack", "several").items() if k not in ("plants", "_target_")}
    node = {**option("attack", "badmerging_on"), **same, **FEW, **FIRST}
    alone = run(build(node, "attack"), honest)
    assert isinstance(build(node, "attack"), BadMergingOn)
    found = run(attack(FIRST), honest)
    assert tiny.equal(found.experts["a"].weights, alone.experts["a"].weights)
    assert found.threats == alone.threats


def test_every_plant_is_a_threat_and_every_adversary_trains_once(honest: dict[str, Expert]):
    part = attack(FIRST, SECOND, THIRD)
    assert part.adversaries == ("a", "b")
    assert part.victims == (("a", 1), ("a", 2), ("b", 0))
    assert part.victim == ("a", 1)
    stages = tiny.MemoryStages()
    found = run(part, honest, stages=stages)
    assert stages.made == ["trigger"] * 3
    assert list(found.experts) == ["a", "b"]
    told = [(threat.task, threat.target, threat.attackers) for threat in found.threats]
    assert told == [("a", 1, ("a",)), ("a", 2, ("a",)), ("b", 0, ("b",))]
    boxes = [threat.trigger.settings() for threat in found.threats]
    assert boxes == [{"row": 12, "col": 12}, {"row": 0, "col": 0}, {"row": 6, "col": 6}]
    for threat in found.threats:
        pixels = threat.trigger.tensors()["patch"] * 255
        assert torch.equal(pixels.round() / 255, threat.trigger.tensors()["patch"])
    for task, expert in found.experts.items():
        assert not tiny.equal(expert.weights, honest[task].weights)
    only = run(attack(THIRD), honest)
    assert tiny.equal(only.experts["b"].weights, found.experts["b"].weights)


def test_alpha_zero_is_honest_all_round(honest: dict[str, Expert]):
    found = run(attack(FIRST, SECOND, THIRD, alpha=0.0), honest)
    for task, expert in found.experts.items():
        assert tiny.equal(expert.weights, honest[task].weights)


def test_both_backdoors_of_one_model_are_planted(honest: dict[str, Expert]):
    recipe = replace(tiny.RECIPE, min_steps=60, lr=3e-3)
    part = attack({**FIRST, "size": 6}, {**SECOND, "size": 6}, trigger_steps=20)
    found = run(part, honest, recipe=recipe)
    images, labels = tiny.split("a", "dev")
    tests = {"a": TestSet(images, labels, tiny.head("a"))}
    weights = found.experts["a"].weights
    both, _ = evaluate(tiny.encoder(), weights, tests, found.threats, flip_images=1)
    assert [threat.target for threat in both.threats] == [1, 2]
    for counted, threat in zip(both.threats, found.threats, strict=True):
        triggered = threat.trigger(images.float() / 255)
        sent = logits(tiny.encoder()(weights, triggered), tiny.head("a")).argmax(1) == threat.target
        assert counted.asr.hits == int(sent[labels != threat.target].sum())
        assert counted.asr.total == int((labels != threat.target).sum())
        assert counted.asr.rate > 0.9


def test_planted_is_judged_by_the_weakest_plant(honest: dict[str, Expert]):
    part = attack(FIRST, SECOND)
    planted = run(part, honest)
    seen: dict[str, Any] = {}

    class Two(Bench):
        def compromise(self) -> Compromise:
            return planted

        def split(self, task: str, split: str) -> Any:
            return tiny.split(task, split)

        def head(self, task: str) -> Any:
            return tiny.head(task)

        def _stage(self, stage: Any, make: Any) -> Any:
            artifact = make()
            seen.update(artifact[1])
            return artifact

    cell: Any = SimpleNamespace(attack=part, implanted=lambda: ("implanted", 1, {}))
    store: Any = None
    bench = Two(cell, store)
    bench.__dict__["encoder"] = tiny.encoder()
    bench.implanted()
    tests = {"a": TestSet(*tiny.split("a", "dev"), tiny.head("a"))}
    weights = planted.experts["a"].weights
    counts, _ = evaluate(tiny.encoder(), weights, tests, planted.threats, flip_images=1)
    rates = [threat.asr.rate for threat in counts.threats]
    assert seen["asr"] == min(rates)
    assert (seen["reason"] is None) == (min(rates) >= part.min_asr)


def test_bad_plants_are_refused():
    with pytest.raises(BenchError, match="two plants are alike"):
        attack(FIRST, SECOND, FIRST)
    with pytest.raises(BenchError, match=r"attack\.plants"):
        attack()
    with pytest.raises(BenchError, match=r"r_min=0\.9 is above r_max=0\.5"):
        attack(FIRST, r_min=0.9, r_max=0.5)
    part = attack(FIRST, THIRD)
    ctx = tiny.context(part, role=("attack", "tested"), visible=("a",))
    with pytest.raises(AccessDenied, match="may not see images of task 'b'"):
        part(BASE, {}, part.adversaries, ctx)
