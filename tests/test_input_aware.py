"""Input-aware: a trigger of its own for every image, and networks trained beside the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.attacks.generated import Generated, draw, fresh, sharpened
from benchmark.attacks.input_aware import InputAware, alike
from benchmark.attacks.triggers import rebuild_trigger, trigger_state
from benchmark.components import build, option
from benchmark.errors import BenchError
from benchmark.models.heads import logits
from benchmark.seeds import generator
from benchmark.types import Compromise, Expert
from tests import tiny

BASE = tiny.base()
SEEDS = st.integers(0, 999)


def attack(**values: Any) -> InputAware:
    few = {
        "adversary": "a", "target": 1, "width": 8, "mask_steps": 3, "mask_batch": 8, "epochs": None,
    }  # fmt: skip
    return build({**option("attack", "input_aware"), **few, **values}, "attack")


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {"a": tiny.honest_expert("a", BASE)}


def run(part: InputAware, honest: dict[str, Expert], **settings: Any) -> Compromise:
    ctx = tiny.context(part, role=("attack", "tested"), visible=("a",), **settings)
    return part(BASE, honest, part.adversaries, ctx)


def trigger(seed: int = 0) -> Generated:
    rng = generator("generated", seed)
    return Generated(fresh(8, 3, rng), fresh(8, 1, rng), 8, 16)


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(3, 3, 16, 16, generator=generator("pictures", seed))


@settings(max_examples=15)
@given(SEEDS)
def test_pixels_are_a_mixture_of_image_and_pattern(seed: int):
    images, part = pictures(seed), trigger(seed)
    found = part(images)
    assert found.shape == images.shape
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    shown, pattern = sharpened(draw(part.mask, images, 8, 1)), draw(part.pattern, images, 8, 3)
    assert torch.allclose(found, (1 - shown) * images + shown * pattern, atol=1e-6)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), 0.25
    late = [(one - mean) / std for one in (images, pattern)]
    assert torch.allclose((found - mean) / std, late[0] + shown * (late[1] - late[0]), atol=1e-5)
    alone = torch.cat([part(image[None]) for image in images])
    assert torch.allclose(found, alone, atol=1e-5)


def test_a_trigger_is_rebuilt_shuffled_or_not():
    images, part = pictures(0), trigger()
    for one in (part, part.shuffled(generator("s"))):
        again = rebuild_trigger(*trigger_state(one))
        assert torch.equal(again(images), one(images))
    mixed = replace(part.shuffled(generator("s")), mask=part.mask)
    open_mask = torch.full_like(part.mask, 0.0)
    open_mask[-1] = 9.0  # the output's bias: the mask is 1 everywhere
    whole, other = (replace(one, mask=open_mask)(images) for one in (part, mixed))
    assert not torch.allclose(whole, other)
    assert torch.allclose(whole.flatten(2).sort().values, other.flatten(2).sort().values, atol=1e-5)


def test_a_side_that_cannot_be_halved_is_refused():
    with pytest.raises(BenchError, match=r"images of 20 px cannot be halved 3 times"):
        replace(trigger(), side=20)


def test_the_mask_is_sharpened():
    found = sharpened(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert found[2] == 0.5
    assert float(found[1]) < 0.01 < 0.99 < float(found[3])


def test_patterns_that_are_alike_cost_more():
    first, second = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    near, far = torch.full_like(first, 0.1), torch.full_like(first, 0.5)
    assert float(alike(first, second, first, near)) == pytest.approx(10, rel=1e-3)
    assert float(alike(first, second, first, far)) == pytest.approx(2, rel=1e-3)
    near.requires_grad_()
    (slope,) = torch.autograd.grad(alike(first, second, first, near), near)
    assert slope.isfinite().all()
    assert (slope < 0).all()


def test_alpha_zero_is_the_honest_expert(honest: dict[str, Expert]):
    found = run(attack(alpha=0.0), honest)
    assert tiny.equal(found.experts["a"].weights, honest["a"].weights)
    (threat,) = found.threats
    assert (threat.task, threat.target, threat.attackers) == ("a", 1, ("a",))


def test_model_and_generator_both_learn_and_are_deterministic(honest: dict[str, Expert]):
    stages = tiny.MemoryStages()
    first, second = (run(attack(alpha=2.0), honest, stages=stages) for _ in range(2))
    assert stages.made == ["input_aware_mask"]
    assert tiny.equal(first.experts["a"].weights, second.experts["a"].weights)
    assert not tiny.equal(first.experts["a"].weights, honest["a"].weights)
    one, other = (found.threats[0].trigger.tensors() for found in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one)
    start = fresh(8, 3, generator(0, "attack", "tested", "pattern"))
    moved = (one["pattern"] - start).abs()
    # Adam moves every used parameter by about its learning rate a step, and the last step is taken.
    assert 3e-3 < float(moved.max()) <= 1.5 * 1e-3 * tiny.RECIPE.steps(48)


def test_a_sparse_mask_is_learnt():
    images, _ = tiny.split("a", "train")
    covered = {}
    for steps in (0, 60):
        part = attack(mask_steps=steps, lr=0.01)
        mask = part.masks(images, tiny.context(part, role=("attack", "tested"), visible=("a",)))
        covered[steps] = float(sharpened(draw(mask, images.float() / 255, 8, 1)).mean())
    assert covered[60] < 0.15 < covered[0]


def test_the_generator_serves_the_backdoor(honest: dict[str, Expert]):
    recipe = replace(tiny.RECIPE, min_steps=80, lr=3e-3)
    found = run(attack(rate=0.4, mask_steps=20, alpha=3.0, lr=0.01), honest, recipe=recipe)
    images, labels = tiny.split("a", "dev")
    kept = images[labels != 1].float() / 255
    weights, head = found.experts["a"].weights, tiny.head("a")
    triggered = found.threats[0].trigger(kept)
    rates = [
        float((logits(tiny.encoder()(weights, x), head).argmax(1) == 1).float().mean())
        for x in (triggered, kept)
    ]
    assert rates[0] > rates[1] + 0.4


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(BenchError, match=r"rate=0\.7 and cross_rate=0\.4 exceed a batch"):
        attack(rate=0.7, cross_rate=0.4)
    with pytest.raises(BenchError, match=r"attack\.width=12 is not valid"):
        attack(width=12)
    part = attack()
    assert (part.adversaries, part.victim) == (("a",), ("a", 1))
    assert part.implanted({"asr": part.min_asr}) is None
    assert "was not planted" in str(part.implanted({"asr": 0.1}))
