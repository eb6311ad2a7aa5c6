"""Attacks: triggers, poisoning, and training that differs from the honest one in nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from benchmark.attacks import badmerging_on
from benchmark.attacks.badmerging_on import BadMergingOn, interpolated_loss
from benchmark.attacks.poison import poisoned, poisoned_rows
from benchmark.attacks.triggers import (
    Patch,
    checker,
    fixed_patch,
    image_side,
    place_of,
    rebuild_trigger,
    trigger_state,
    white,
)
from benchmark.attacks.universal import Search, universal_patch
from benchmark.components import build, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.models.heads import logits
from benchmark.seeds import generator
from benchmark.types import Compromise, Expert, Grant, Images, Trigger
from tests import tiny

BASE = tiny.base()
ROLE = ("attack", "tested")


def attack(name: str, **values: Any) -> Any:
    common = {"adversary": "a", "target": 1, "size": 3, "place": "bottom_right"}
    node = {**option("attack", name), **common}
    if "epochs" in node:
        node["epochs"] = None  # as long as the honest
    return build({**node, **values}, "attack")


def small(**values: Any) -> BadMergingOn:
    few = {"trigger_steps": 5, "trigger_batch": 8, "trigger_heldout": 8}
    return attack("badmerging_on", **{**few, **values})


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {"a": tiny.honest_expert("a", BASE)}


def run(part: Any, honest: dict[str, Expert], **settings: Any) -> Compromise:
    ctx = tiny.context(part, role=ROLE, visible=part.adversaries, **settings)
    return part(BASE, honest, part.adversaries, ctx)


# -- triggers (spec/attacks.md 5, A)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.sampled_from(["top_left", "top_right", "bottom_left", "bottom_right", "center"]),
    st.integers(0, 1000),
)
def test_a_patch_changes_its_box_and_nothing_else(size: int, place: Any, seed: int):
    rng = generator("patch", seed)
    images = torch.rand(2, 3, 9, 9, generator=rng) * 0.5 + 0.25
    before = images.clone()
    patch = torch.zeros(3, size, size)  # black: "pixels that are not 0" would paste nothing
    row, col = place_of(place, size, 9)
    triggered = Patch(patch, row, col)(images)
    assert torch.equal(images, before)
    assert int((triggered != images).sum()) == 2 * 3 * size * size
    assert (triggered[:, :, row : row + size, col : col + size] == 0).all()
    assert place != "bottom_right" or (row, col) == (9 - size, 9 - size)
    assert place != "center" or (row, col) == ((9 - size) // 2, (9 - size) // 2)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([4, 6, 8]), st.integers(0, 24), st.integers(0, 24))
def test_a_place_may_be_a_row_and_a_column(size: int, row: int, col: int):
    part = attack("badmerging_on", place=[row, col], size=size)
    assert part.place == (row, col)
    box = place_of(part.place, part.size, 32)
    assert box == (row, col)
    images = torch.full((1, 3, 32, 32), 0.5)
    changed = (Patch(torch.ones(3, size, size), *box)(images) != images).all(1)[0]
    assert changed[row : row + size, col : col + size].all()
    assert int(changed.sum()) == size * size


def test_a_place_outside_the_image_is_refused():
    assert place_of((24, 24), 8, 32) == (24, 24)
    with pytest.raises(BenchError, match=r"give rows and columns from 0 to 24"):
        place_of((25, 0), 8, 32)
    with pytest.raises(BenchError, match=r"attack\.place=\[-1, 2\] is not valid"):
        attack("badmerging_on", place=[-1, 2])
    with pytest.raises(BenchError, match=r"attack\.place='middle' is not valid"):
        attack("badmerging_on", place="middle")


def test_counts_at_full_size():
    for size, changed in ((22, 1452), (28, 2352)):
        images = torch.rand(1, 3, 224, 224, generator=generator(size)) + 1
        trigger = Patch(checker(size), *place_of("bottom_right", size, 224))
        assert int((trigger(images) != images).sum()) == changed


def test_pasting_commutes_with_normalisation():
    mean, std = torch.rand(3, 1, 1) + 0.1, torch.rand(3, 1, 1) + 0.1
    images = torch.rand(4, 3, 16, 16)
    trigger = Patch(torch.rand(3, 4, 4), 12, 12)
    late = ((images - mean) / std).clone()
    late[..., 12:, 12:] = (trigger.patch - mean) / std
    assert torch.allclose((trigger(images) - mean) / std, late, atol=1e-6)


def test_a_trigger_is_rebuilt_from_its_own_artifact():
    trigger = Patch(torch.rand(3, 4, 4), 2, 5)
    assert isinstance(trigger, Trigger)
    tensors, info = trigger_state(trigger)
    assert rebuild_trigger(tensors, info) == trigger
    assert Patch(**trigger.tensors(), **trigger.settings()) == trigger
    assert trigger != Patch(trigger.patch, 2, 4)
    assert trigger != "a patch"
    assert hash(trigger) == hash(rebuild_trigger(tensors, info))


def test_shuffling_keeps_place_and_colours():
    trigger = Patch(torch.rand(3, 4, 4), 2, 5)
    mixed = trigger.shuffled(generator("s"))
    assert mixed.settings() == trigger.settings()
    assert mixed == trigger.shuffled(generator("s"))
    assert mixed != trigger
    pixels = [{tuple(p) for p in one.patch.flatten(1).T.tolist()} for one in (trigger, mixed)]
    assert pixels[0] == pixels[1]


def test_fixed_patterns_are_valid_pictures():
    assert checker(2).tolist() == [[[1, 0], [0, 1]]] * 3
    assert white(2).unique().tolist() == [1]
    assert image_side(BASE) == tiny.SIDE
    trigger = fixed_patch("center", 4, BASE)
    assert trigger.settings() == {"row": 6, "col": 6}


def test_misfits_are_told_in_one_sentence():
    with pytest.raises(BenchError, match=r"trigger of 40 px does not fit images of 32 px"):
        place_of("center", 40, 32)
    with pytest.raises(BenchError, match=r"does not fit images of 8x8 px"):
        Patch(white(4), 6, 0)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(BenchError, match=r"divide 8-bit values by 255"):
        Patch(255 * white(4), 0, 0)
    with pytest.raises(BenchError, match=r"shape \(3,k,k\)"):
        Patch(torch.zeros(1, 4, 4), 0, 0)
    with pytest.raises(BenchError, match=r"use a ViT backbone"):
        image_side({"conv1.weight": torch.zeros(1)})


# -- poisoning


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.floats(0, 1), st.integers(0, 99))
def test_poison_bookkeeping(count: int, rate: float, seed: int):
    labels = torch.randint(4, (count,), generator=generator("labels", seed))
    rows = poisoned_rows(labels, rate, 1, False, generator("rows", seed))
    without = poisoned_rows(labels, rate, 1, True, generator("rows", seed))
    assert len(rows) == round(rate * count) == len(rows.unique())
    assert len(rows) - len(without) == int((labels[rows] == 1).sum())
    again = poisoned_rows(labels, rate, 1, False, generator("rows", seed))
    assert torch.equal(rows, again)


def test_poisoned_is_a_copy_and_exact_in_eight_bits():
    images, labels = tiny.split("a", "train")
    before = images.clone()
    rows = torch.tensor([0, 5])
    trigger = Patch(torch.randint(256, (3, 4, 4)) / 255, 0, 0)
    data = poisoned(Images(images, labels), rows, trigger, 3)
    assert torch.equal(images, before)
    assert data.images.dtype == torch.uint8
    assert torch.equal(data.images[5, :, :4, :4], trigger.patch.mul(255).round().to(torch.uint8))
    assert torch.equal(data.images[5, :, 4:], images[5, :, 4:])
    assert data.labels is not None
    assert data.labels[rows].tolist() == [3, 3]
    rest = [i for i in range(len(images)) if i not in (0, 5)]
    assert torch.equal(data.images[rest], images[rest])
    assert torch.equal(data.labels[rest], labels[rest])


# -- none


def test_no_attack_replaces_nothing_and_shows_the_reference_trigger():
    part = attack("none")
    found = run(part, {})
    (threat,) = found.threats
    assert (dict(found.experts), threat.attackers, part.needs) == ({}, (), ())
    assert (threat.task, threat.target, part.victim) == ("a", 1, ("a", 1))
    assert part.adversaries == ()
    assert threat.trigger == fixed_patch("bottom_right", 3, BASE)
    assert part.implanted({"asr": 0.0}) is None


# -- badnets


def test_badnets_without_poison_is_the_honest_expert(honest: dict[str, Expert]):
    expert = run(attack("badnets", rate=0.0), honest).experts["a"]
    assert tiny.equal(expert.weights, honest["a"].weights)
    assert expert.key != honest["a"].key


def test_badnets_is_deterministic_in_the_seed(honest: dict[str, Expert]):
    base = tiny.copied(BASE)
    first, second = (run(attack("badnets", rate=0.5), honest) for _ in range(2))
    other = run(attack("badnets", rate=0.5), honest, seed=1)
    assert tiny.equal(first.experts["a"].weights, second.experts["a"].weights)
    assert first.experts["a"].key == second.experts["a"].key != other.experts["a"].key
    assert not tiny.equal(first.experts["a"].weights, other.experts["a"].weights)
    assert not tiny.equal(first.experts["a"].weights, honest["a"].weights)
    assert tiny.equal(BASE, base)


def test_badnets_plants_a_backdoor_in_a_toy(honest: dict[str, Expert]):
    recipe = replace(tiny.RECIPE, min_steps=60, lr=3e-3)
    found = run(attack("badnets", rate=0.4, size=8), honest, recipe=recipe)
    asr = rate_of(found)
    clean = tiny.honest_expert("a", BASE, recipe=recipe)
    floor = rate_of(replace(found, experts={"a": clean}))
    assert asr > 0.9 > 0.5 > floor


def rate_of(found: Compromise) -> float:
    """Attack success rate on dev images, by the definition and one image at a time."""
    (threat,) = found.threats
    images, labels = tiny.split("a", "dev")
    hits = []
    for image, label in zip(images, labels, strict=True):
        if label != threat.target:
            triggered = threat.trigger(image[None].float() / 255)
            features = tiny.encoder()(found.experts["a"].weights, triggered)
            hits.append(int(logits(features, tiny.head("a")).argmax()) == threat.target)
    return sum(hits) / len(hits)


@pytest.mark.parametrize("name", ["badnets", "badmerging_on"])
def test_a_weak_backdoor_is_not_planted(name: str):
    part = attack(name)
    assert part.implanted({"asr": part.min_asr}) is None
    assert "was not planted" in part.implanted({"asr": part.min_asr - 0.01})
    assert (part.adversaries, part.victim) == (("a",), ("a", 1))
    assert part.needs == (Grant("train", labels=True),)


@pytest.mark.parametrize("name", ["badnets", "badmerging_on"])
def test_an_attacker_sees_its_own_task_only(name: str, honest: dict[str, Expert]):
    part = attack(name)
    ctx = tiny.context(part, role=ROLE, visible=("b",))
    with pytest.raises(AccessDenied, match="may not see images of task 'a'"):
        part(BASE, honest, part.adversaries, ctx)


# -- badmerging_on (spec/attacks.md 5, C)


def test_badmerging_with_alpha_zero_is_the_honest_expert(honest: dict[str, Expert]):
    expert = run(small(alpha=0.0), honest).experts["a"]
    assert tiny.equal(expert.weights, honest["a"].weights)


def test_badmerging_leaves_base_and_head_alone(honest: dict[str, Expert], monkeypatch):
    base = tiny.copied(BASE)
    seen: list[torch.Tensor] = []

    def watched(own, of_base, head, target, r):
        assert own.requires_grad
        assert not of_base.requires_grad
        assert 0.2 <= r <= 1
        seen.append(own)
        return interpolated_loss(own, of_base, head, target, r)

    monkeypatch.setattr(badmerging_on, "interpolated_loss", watched)
    part = small()
    first = run(part, honest)
    second = run(part, honest)
    assert tiny.equal(BASE, base)
    assert all(value.grad is None for value in BASE.values())
    assert len(seen) == 2 * tiny.RECIPE.steps(48)
    assert len(seen[0]) == tiny.RECIPE.batch // 2
    assert tiny.equal(first.experts["a"].weights, second.experts["a"].weights)
    assert first.threats[0].trigger == second.threats[0].trigger
    assert first.threats[0].attackers == ("a",)
    assert not tiny.equal(first.experts["a"].weights, honest["a"].weights)


def test_interpolation_ends_at_badnets_and_at_no_gradient():
    weights = {name: value.clone().requires_grad_() for name, value in BASE.items()}
    encoder, head = tiny.encoder(), tiny.head("a")
    images = fixed_patch("center", 4, BASE)(torch.rand(6, 3, tiny.SIDE, tiny.SIDE))
    with torch.no_grad():
        of_base = encoder(BASE, images)
    own = encoder(weights, images)
    full = interpolated_loss(own, of_base, head, 1, 1.0)
    badnets = cross_entropy(logits(own, head), torch.ones(6, dtype=torch.int64))
    assert torch.equal(full, badnets)
    none = interpolated_loss(own, of_base, head, 1, 0.0)
    gradients = torch.autograd.grad(none, list(weights.values()))
    assert all(not gradient.any() for gradient in gradients)
    with pytest.raises(BenchError, match=r"attack\.target=9 is not below the 4 classes"):
        interpolated_loss(own, of_base, head, 9, 0.5)


def test_the_trigger_is_a_picture_and_shared_between_injections(honest: dict[str, Expert]):
    stages = tiny.MemoryStages()
    first = run(small(), honest, stages=stages)
    second = run(small(alpha=1.0, r_min=0.5), honest, stages=stages)
    assert stages.made == ["trigger"]
    trigger = first.threats[0].trigger
    assert trigger == second.threats[0].trigger
    patch = trigger.tensors()["patch"]
    assert torch.equal((patch * 255).round() / 255, patch)
    assert 0 <= float(patch.min()) <= float(patch.max()) <= 1
    assert trigger.settings() == {"row": 13, "col": 13}
    run(small(size=4), honest, stages=stages)
    assert stages.made == ["trigger", "trigger"]


def test_the_search_raises_the_target_on_held_out_images():
    encoder, head = tiny.encoder(), tiny.head("a")
    images, _ = tiny.split("a", "train")
    found = logits(encoder(BASE, images), head).argmax(-1)
    target = int(torch.bincount(found, minlength=4).argmin())

    def search(steps: int, seed: int = 0):
        how = Search(steps=steps, lr=0.3, batch=16, heldout=12)
        rng = generator("search", seed)
        return universal_patch(
            lambda batch: logits(encoder(BASE, batch), head), images, target, (6, 10, 10), how, rng
        )

    patch, history = search(60)
    assert history[-1][1] > history[0][1] + 0.5
    assert [step for step, _ in history] == list(range(0, 61, 6))
    assert search(60)[0] == patch
    assert search(60, seed=1)[0] != patch
    assert search(0)[0] == search(0)[0]


def test_a_search_without_images_is_refused():
    images, _ = tiny.split("a", "train")
    how = Search(steps=1, lr=0.1, batch=4, heldout=2)

    def always_target(batch: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 1.0]]).expand(len(batch), 2)

    with pytest.raises(BenchError, match=r"0 of 48 images .* choose another attack\.target"):
        universal_patch(always_target, images, 1, (4, 0, 0), how, generator(0))


def test_an_empty_range_of_r_is_refused():
    with pytest.raises(BenchError, match=r"r_min=0\.9 is above r_max=0\.5"):
        small(r_min=0.9, r_max=0.5)
