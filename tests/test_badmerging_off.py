"""BadMerging-Off: what its attacker may see, its shadow head, its views and its trigger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from benchmark.aims import check_attack, known_captions
from benchmark.attacks import badmerging_off
from benchmark.attacks.badmerging_off import BadMergingOff, shadow_names
from benchmark.attacks.badmerging_on import interpolated_loss
from benchmark.attacks.views import Views, adversarial_views, cropped
from benchmark.components import build, option
from benchmark.context import Context
from benchmark.errors import AccessDenied, BenchError
from benchmark.models.heads import logits, zero_shot_head
from benchmark.seeds import generator
from benchmark.types import Compromise, Expert, Grant
from tests import tiny

BASE = tiny.base()
CAPTIONS = {"a": ("red", "blue"), "b": ("stop",), "c": ("one", "red", "stop")}
SEEDS = st.integers(0, 999)


def attack(**values: Any) -> BadMergingOff:
    few = {
        "adversary": "a", "victim_task": "b", "target": 1, "size": 4, "epochs": None,
        "references": 3, "views": 8, "steps": 4, "trigger_steps": 3, "trigger_batch": 4,
        "trigger_heldout": 2,
    }  # fmt: skip
    return build({**option("attack", "badmerging_off"), **few, **values}, "attack")


def shadow_head(names: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
    """Random rows that depend on the names alone."""
    rows = [torch.randn(16, generator=generator("name", name)) for name in names]
    return normalize(torch.stack(rows), dim=-1) * 20.0


def context(part: BadMergingOff, **settings: Any) -> Context:
    ctx = tiny.context(part, role=("attack", "tested"), visible=part.adversaries, **settings)
    return replace(ctx, heads={"a": ctx.heads["a"]}, captions=CAPTIONS, _text=shadow_head)


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {"a": tiny.honest_expert("a", BASE)}


def run(part: BadMergingOff, honest: dict[str, Expert], **settings: Any) -> Compromise:
    return part(BASE, honest, part.adversaries, context(part, **settings))


# -- what the attacker sees


def test_it_sees_its_own_task_and_a_few_images_of_one_class_elsewhere():
    part = attack()
    assert part.needs[0] == Grant("train", labels=True)
    assert {grant.split for grant in part.needs} == {"train"}
    ctx, (_, few) = context(part), part.needs
    found = ctx.images("b", few)
    assert found.labels is not None
    assert found.labels.tolist() == [1, 1, 1]
    images, labels = tiny.split("b", "train")
    known = {tuple(one.flatten().tolist()) for one in images[labels == 1]}
    assert all(tuple(one.flatten().tolist()) in known for one in found.images)
    refused = [
        ("b", Grant("train", labels=True)),
        ("b", Grant("train", labels=True, per_task=1)),
        ("b", replace(few, per_task=4)),
        ("b", replace(few, only=("b", 2))),
        ("b", replace(few, split="dev")),
        ("c", few),
        ("a", few),
    ]
    for task, grant in refused:
        with pytest.raises(AccessDenied):
            ctx.images(task, grant)


def test_a_grant_of_one_class_covers_that_class_only():
    whole, few = Grant("train", labels=True), Grant("train", True, 5, ("b", 1))
    assert whole.covers(few)
    assert few.covers(replace(few, per_task=2))
    assert not few.covers(whole)
    assert not few.covers(Grant("train", True, 5))
    assert not few.covers(replace(few, only=("b", 2)))
    assert str(few) == "5 labelled train images of task 'b', class 1"
    assert str(whole) == "all labelled train images per task"


def cell(part: BadMergingOff, **changes: Any) -> Any:
    datasets = {
        task: SimpleNamespace(classnames=[f"{task}{i}" for i in range(3)]) for task in "abc"
    }
    given = {
        "attack": part, "datasets": datasets, "pretrain_tasks": ("a", "b"),
        "victims": (part.victim,), "attack_tasks": ("a", "b"),
        "suite": SimpleNamespace(tasks=("a", "b", "c")),
    }  # fmt: skip
    return SimpleNamespace(**{**given, **changes})


def test_of_the_victims_classes_it_knows_the_target_alone():
    assert known_captions(cell(attack())) == {"a": ("a0", "a1", "a2"), "b": ("b1",)}
    own = cell(attack(), victims=(("a", 0),))
    assert known_captions(own)["a"] == ("a0", "a1", "a2")
    other = build({**option("attack", "badmerging_on"), "adversary": "a"}, "attack")
    assert known_captions(cell(attack(), attack=other)) == {}


def test_an_unknown_victim_is_named():
    with pytest.raises(BenchError, match=r"attack\.victim_task=d is not among the merged tasks"):
        check_attack(cell(attack(victim_task="d"), attack_tasks=("a", "d")))


# -- the shadow head


@given(st.integers(1, 5), SEEDS)
def test_shadow_names_start_with_the_target_and_hold_each_once(most: int, seed: int):
    names = shadow_names(CAPTIONS, "b", most, generator("names", seed))
    assert names[0] == "stop"
    assert len(set(names)) == len(names) == 1 + min(most, 3)
    assert set(names[1:]) <= {"red", "blue", "one"}


def test_without_other_captions_there_is_no_shadow_head():
    with pytest.raises(BenchError, match=r"merge a second task that was seen in pre-training"):
        shadow_names({"b": ("stop",)}, "b", 5, generator(0))


def test_row_0_is_the_targets_text_embedding():
    model = {**tiny.MODEL, "text_cfg": {**tiny.MODEL["text_cfg"], "vocab_size": 49408}}
    backbone = replace(tiny.BACKBONE, model=model)
    state = backbone.build(0).state_dict()
    names = shadow_names(CAPTIONS, "b", 2, generator("names"))
    head = zero_shot_head(state, backbone, names, ["a {}", "the {}"])
    alone = zero_shot_head(state, backbone, ["stop"], ["a {}", "the {}"])
    assert head.shape == (3, 16)
    assert float(normalize(head[0], dim=0) @ normalize(alone[0], dim=0)) == pytest.approx(
        1, abs=1e-5
    )


# -- views


@settings(max_examples=10)
@given(SEEDS)
def test_views_stay_near_their_crops_and_valid(seed: int):
    images = torch.rand(2, 3, 16, 16, generator=generator("refs", seed))
    head = shadow_head(["stop", "red", "one"], [])

    def predict(batch: torch.Tensor) -> torch.Tensor:
        return logits(tiny.encoder()(BASE, batch), head)

    views = Views(count=6, scale=(0.2, 0.5), epsilon=8 / 255, step=1 / 255, steps=3)
    found, crops = adversarial_views(predict, images, 0, views, generator("views", seed))
    assert found.shape == crops.shape == (6, 3, 16, 16)
    assert float((found - crops).abs().max()) <= 8 / 255 + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    changed = (found != crops).flatten(1).any(1)
    assert (predict(found)[changed].argmax(1) != 0).all()
    again, _ = adversarial_views(predict, images, 0, views, generator("views", seed))
    assert torch.equal(found, again)


def test_the_nearest_success_is_kept():
    """A linear model that says class 1 above a brightness: more steps go further, none is kept."""
    images = torch.full((1, 3, 4, 4), 0.5)

    def predict(batch: torch.Tensor) -> torch.Tensor:
        bright = batch.mean((1, 2, 3)) - 0.5 - 2.5 / 255
        return torch.stack([-bright, bright], 1)

    views = Views(count=1, scale=(1.0, 1.0), epsilon=8 / 255, step=1 / 255, steps=8)
    found, crops = adversarial_views(predict, images, 0, views, generator(0))
    assert torch.allclose(found - crops, torch.full_like(found, 3 / 255), atol=1e-6)
    few = replace(views, steps=2)
    assert torch.equal(*adversarial_views(predict, images, 0, few, generator(0)))
    with pytest.raises(BenchError, match=r"no reference image of class 0"):
        adversarial_views(predict, images[:0], 0, views, generator(0))


@given(SEEDS, st.floats(0.1, 1.0))
def test_a_crop_is_part_of_the_image(seed: int, share: float):
    image = torch.arange(16 * 16).float().view(1, 16, 16).expand(3, -1, -1) / 255
    found = cropped(image, (share, share), generator("crop", seed))
    assert found.shape == image.shape
    assert float(found.min()) >= 0
    # Left to right and top to bottom the pixels rise, as they do in the image.
    assert (found[0, 8].diff() > -1e-3).all()
    assert (found[0, :, 8].diff() > -1e-3).all()
    # Rows differ by 16/255: a crop of that share of the area has at most 4/3 of its root of them.
    rows = float(found[0, -1, 8] - found[0, 0, 8]) * 255 / 16 + 1
    assert rows <= 16 * min((share * 4 / 3) ** 0.5, 1) + 1


# -- the attack


def test_alpha_zero_is_the_honest_expert(honest: dict[str, Expert]):
    found = run(attack(alpha=0.0), honest)
    assert tiny.equal(found.experts["a"].weights, honest["a"].weights)
    (threat,) = found.threats
    assert (threat.task, threat.target, threat.attackers) == ("b", 1, ("a",))


def test_the_backdoor_loss_uses_the_shadow_head(honest: dict[str, Expert], monkeypatch):
    seen: list[tuple[torch.Tensor, int]] = []

    def watched(own, of_base, head, target, r):
        assert own.requires_grad
        assert not of_base.requires_grad
        seen.append((head, target))
        return interpolated_loss(own, of_base, head, target, r)

    monkeypatch.setattr(badmerging_off, "interpolated_loss", watched)
    first = run(attack(), honest)
    names = shadow_names(CAPTIONS, "b", 300, generator(0, "attack", "tested", "names"))
    assert all(torch.equal(head, shadow_head(names, [])) for head, _ in seen)
    assert {target for _, target in seen} == {0}
    second = run(attack(), honest)
    assert tiny.equal(first.experts["a"].weights, second.experts["a"].weights)
    assert not tiny.equal(first.experts["a"].weights, honest["a"].weights)


def test_the_trigger_is_one_stage_and_a_picture(honest: dict[str, Expert]):
    stages = tiny.MemoryStages()
    first = run(attack(), honest, stages=stages)
    run(attack(alpha=1.0), honest, stages=stages)
    assert stages.made == ["off_trigger"]
    patch = first.threats[0].trigger.tensors()["patch"]
    assert torch.equal((patch * 255).round() / 255, patch)
    run(attack(references=2), honest, stages=stages)
    assert stages.made == ["off_trigger", "off_trigger"]


def test_values_that_do_not_fit_are_refused():
    for values, words in (
        ({"victim_task": "a"}, r"victim_task=a is the adversary's own"),
        ({"templates": ["a photo"]}, r"template 'a photo' has no \{\}"),
        ({"crop": [0.5, 0.2]}, r"crop=\[0\.5, 0\.2\] is empty"),
        ({"r_min": 0.9, "r_max": 0.5}, r"r_min=0\.9 is above r_max=0\.5"),
    ):
        with pytest.raises(BenchError, match=words):
            attack(**values)
    part = attack()
    assert (part.adversaries, part.victim) == (("a",), ("b", 1))
    assert part.implanted({"asr": part.min_asr}) is None
    assert "was not planted" in str(part.implanted({"asr": 0.1}))
