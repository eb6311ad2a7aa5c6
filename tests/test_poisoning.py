"""Attacks that poison data with triggers over the whole image: blended, WaNet, SIG; and a patch
that poisons nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.attacks.badmerging_on import BadMergingOn
from benchmark.attacks.blended import Blend, mosaic
from benchmark.attacks.poison import class_rows
from benchmark.attacks.sig import Added, sinusoid
from benchmark.attacks.triggers import rebuild_trigger, trigger_state
from benchmark.attacks.wanet import Warp, control_points
from benchmark.components import build, option, role
from benchmark.errors import AccessDenied, BenchError
from benchmark.models.heads import logits
from benchmark.seeds import generator
from benchmark.types import Compromise, Expert, Grant, Images
from tests import tiny

BASE = tiny.base()
POISONERS = ("blended", "wanet", "sig")
SEEDS = st.integers(0, 999)


def attack(name: str, **values: Any) -> Any:
    node = {**option("attack", name), "adversary": "a", "target": 1}
    if "epochs" in node:
        node["epochs"] = None  # as long as the honest
    return build({**node, **values}, "attack")


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {"a": tiny.honest_expert("a", BASE)}


def run(part: Any, honest: dict[str, Expert], **given: Any) -> Compromise:
    ctx = tiny.context(part, role=("attack", "tested"), visible=("a",), **given)
    return part(BASE, honest, part.adversaries, ctx)


def pictures(seed: int, side: int = 12) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=generator("pictures", seed))


def triggers(seed: int, side: int = 12) -> list[Any]:
    rng = generator("triggers", seed)
    return [
        Blend(mosaic(3, side, rng), 0.3),
        Warp(control_points(3, rng), 2.0),
        Added(sinusoid(0.4, 3, side)),
    ]


# -- what all triggers have in common (spec/attacks.md 5, A)


@given(SEEDS)
def test_triggered_pixels_are_valid_and_depend_on_the_image_alone(seed: int):
    images = pictures(seed)
    before = images.clone()
    for trigger in triggers(seed):
        for one in (trigger, trigger.shuffled(generator("shuffled", seed))):
            found = one(images)
            assert found.shape == images.shape
            assert 0 <= float(found.min()) <= float(found.max()) <= 1
            alone = torch.cat([one(image[None]) for image in images])
            assert torch.allclose(found, alone, atol=1e-6)
    assert torch.equal(images, before)


@given(SEEDS)
def test_a_trigger_is_rebuilt_from_its_artifact(seed: int):
    images = pictures(seed)
    for trigger in triggers(seed):
        again = rebuild_trigger(*trigger_state(trigger))
        assert type(again) is type(trigger)
        assert torch.equal(again(images), trigger(images))


def test_shuffling_permutes_and_nothing_else():
    for trigger in triggers(0):
        mixed = trigger.shuffled(generator("s"))
        ((name, whole),) = trigger.tensors().items()
        other = mixed.tensors()[name]
        assert not torch.equal(other, whole)
        columns = [sorted(map(tuple, part.flatten(1).T.tolist())) for part in (whole, other)]
        assert columns[0] == columns[1]
        assert mixed.settings() == trigger.settings()


def test_triggers_of_another_size_are_refused():
    for trigger in (triggers(0)[0], triggers(0)[2]):
        with pytest.raises(BenchError, match=r"of 12x12 px does not fit images of 8x8 px"):
            trigger(pictures(0, side=8))
    with pytest.raises(BenchError, match=r"divide 8-bit values by 255"):
        Blend(torch.full((3, 2, 2), 255.0), 0.5)
    with pytest.raises(BenchError, match=r"alpha=1\.5"):
        Blend(torch.zeros(3, 2, 2), 1.5)
    with pytest.raises(BenchError, match=r"attack\.cells=9 do not fit images of 8 px"):
        mosaic(9, 8, generator(0))


# -- blended


@given(SEEDS, st.floats(0, 1))
def test_blending_is_affine_and_commutes_with_normalisation(seed: int, alpha: float):
    images, picture = pictures(seed), mosaic(5, 12, generator("mosaic", seed))
    found = Blend(picture, alpha)(images)
    assert float((found - ((1 - alpha) * images + alpha * picture)).abs().max()) <= 1e-6
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2]).view(1, 1, 1)
    late = (1 - alpha) * (images - mean) / std + alpha * (picture - mean) / std
    assert torch.allclose((found - mean) / std, late, atol=1e-5)
    twice = Blend(picture, alpha)(found)
    # Blending twice is blending with 1 - (1 - a)^2: once only for a of 0 and 1.
    stronger = (1 - alpha) ** 2 * images + (1 - (1 - alpha) ** 2) * picture
    assert torch.allclose(twice, stronger, atol=1e-6)


def test_a_mosaic_has_as_many_tiles_as_it_says():
    found = mosaic(4, 16, generator("m"))
    assert torch.equal(found, found[:, ::4, ::4].repeat_interleave(4, 1).repeat_interleave(4, 2))
    assert len(found.flatten(1).T.unique(dim=0)) == 16
    assert torch.equal((found * 255).round() / 255, found)
    assert mosaic(5, 16, generator("m")).shape == (3, 16, 16)


# -- WaNet


@pytest.mark.parametrize("side", [32, 64, 224])
def test_displacement_is_the_same_share_of_every_side(side: int):
    shares = []
    for seed in range(20):
        warp = Warp(control_points(4, generator("field", seed)), 0.5)
        # In units of half a side, from the centre of the first pixel to that of the last.
        pixels = warp.field(side, side) * (side - 1) / 2
        shares.append(float(pixels.norm(dim=0).mean()) / side)
    assert 0.0075 <= sum(shares) / len(shares) <= 0.0105


@given(SEEDS)
def test_a_warp_interpolates_and_commutes_with_normalisation(seed: int):
    images = pictures(seed)
    trigger = Warp(control_points(4, generator("field", seed)), 1.0)
    found = trigger(images)
    assert (found.amin((2, 3)) >= images.amin((2, 3))).all()
    assert (found.amax((2, 3)) <= images.amax((2, 3))).all()
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2]).view(1, 1, 1)
    assert torch.allclose((found - mean) / std, trigger((images - mean) / std), atol=1e-5)


def test_the_field_is_smooth_and_its_control_points_have_mean_magnitude_1():
    points = control_points(4, generator("field"))
    assert float(points.abs().mean()) == pytest.approx(1, abs=1e-6)
    assert torch.equal(points, control_points(4, generator("field")))
    assert not torch.equal(points, control_points(4, generator("field", 1)))
    field = Warp(points, 32.0).field(64, 64)
    corners = field[:, ::63, ::63]
    assert torch.allclose(corners, points[:, ::3, ::3], atol=1e-4)
    assert float((field[:, 1:] - field[:, :-1]).abs().max()) < 0.25


def test_a_warp_moves_pixels_where_the_field_points():
    points = torch.zeros(2, 2, 2)
    points[0] = 1.0  # across
    images = torch.rand(1, 3, 5, 5)
    # One pixel of five is half a unit: u = x / 2 - 1.
    moved = Warp(points, 16.0)(images)
    assert torch.allclose(moved[..., :4], images[..., 1:], atol=1e-5)
    assert torch.allclose(moved[..., 4], images[..., 4], atol=1e-5)  # clamped at the edge


def test_noise_mode_keeps_labels_and_poisoned_images_do_not():
    part = attack("wanet", rate=0.25, cross=2.0, strength=4.0)
    pixels, labels = tiny.split("a", "train")
    ctx = tiny.context(part, role=("attack", "tested"))
    trigger = Warp(control_points(4, generator("field")), part.strength)
    data = part.poison(Images(pixels, labels), trigger, ctx)
    assert data.labels is not None
    warped = trigger(pixels.float() / 255).mul(255).round().to(torch.uint8)
    poisoned = (data.images == warped).flatten(1).all(1)
    changed = (data.images != pixels).flatten(1).any(1)
    assert int(poisoned.sum()) == 12
    assert int(changed.sum()) == 12 + 24
    assert (data.labels[poisoned] == 1).all()
    assert torch.equal(data.labels[~poisoned], labels[~poisoned])


def test_more_images_than_there_are_cannot_be_poisoned():
    with pytest.raises(BenchError, match=r"rate=0\.4 and cross=2\.0 ask for more than all"):
        attack("wanet", rate=0.4)


# -- SIG


def test_the_sinusoid_is_that_of_sig():
    wave = sinusoid(40 / 255, 6, 32)
    columns = [40 / 255 * float(torch.sin(torch.tensor(2 * torch.pi * j * 6 / 32))) for j in (0, 5)]
    assert [float(wave[0, 7, j]) for j in (0, 5)] == pytest.approx(columns, abs=1e-6)
    assert torch.equal(wave[0, 0], wave[0, 31])
    long = sinusoid(40 / 255, 6, 48)  # period 8 px
    assert torch.allclose(long[..., :40], long[..., 8:], atol=1e-6)
    assert float(long.abs().max()) == pytest.approx(40 / 255)


@settings(max_examples=30)
@given(st.integers(1, 80), st.floats(0, 1), SEEDS)
def test_clean_labels_are_counted_in_the_target_class(count: int, rate: float, seed: int):
    labels = torch.randint(3, (count,), generator=generator("labels", seed))
    labels[0] = 1
    rows = class_rows(labels, rate, 1, generator("rows", seed))
    of_class = int((labels == 1).sum())
    assert (labels[rows] == 1).all()
    assert len(rows) == len(rows.unique()) == (max(round(rate * of_class), 1) if rate else 0)
    assert torch.equal(rows, class_rows(labels, rate, 1, generator("rows", seed)))


def test_a_class_without_images_is_refused_in_one_sentence():
    labels = torch.zeros(5, dtype=torch.int64)
    with pytest.raises(BenchError, match=r"none of 5 training images is of class 1"):
        class_rows(labels, 0.5, 1, generator(0))


# -- the attacks


@pytest.mark.parametrize("name", POISONERS)
def test_without_poison_the_upload_is_the_honest_expert(name: str, honest: dict[str, Expert]):
    found = run(attack(name, rate=0.0), honest)
    assert tiny.equal(found.experts["a"].weights, honest["a"].weights)


@pytest.mark.parametrize("name", POISONERS)
def test_poisoning_is_deterministic_in_the_seed(name: str, honest: dict[str, Expert]):
    part = attack(name, rate=0.3)
    first, second, other = (run(part, honest, seed=seed) for seed in (0, 0, 1))
    assert tiny.equal(first.experts["a"].weights, second.experts["a"].weights)
    assert not tiny.equal(first.experts["a"].weights, honest["a"].weights)
    images = pictures(0, tiny.SIDE)
    one, same, differs = (each.threats[0].trigger(images) for each in (first, second, other))
    assert torch.equal(one, same)
    assert torch.equal(one, differs) == (name == "sig")  # its pattern is not drawn
    (threat,) = first.threats
    assert (threat.task, threat.target, threat.attackers) == ("a", 1, ("a",))


@pytest.mark.parametrize("name", POISONERS)
def test_an_attacker_sees_its_own_images_and_judges_its_own_model(name: str):
    part = attack(name)
    assert (part.adversaries, part.victim) == (("a",), ("a", 1))
    assert part.needs == (Grant("train", labels=True),)
    assert part.implanted({"asr": part.min_asr}) is None
    assert "was not planted" in part.implanted({"asr": part.min_asr - 0.01})
    ctx = tiny.context(part, role=("attack", "tested"), visible=("b",))
    with pytest.raises(AccessDenied, match="may not see images of task 'a'"):
        part(BASE, {"a": Expert("a", BASE, "x")}, part.adversaries, ctx)


# -- the patch alone


def test_the_patch_alone_is_badmergings_and_replaces_nothing(honest: dict[str, Expert]):
    few = {"trigger_steps": 3, "trigger_batch": 8, "trigger_heldout": 8, "size": 4}
    alone, planted = attack("trigger_only", **few), attack("badmerging_on", **few)
    assert isinstance(planted, BadMergingOn)
    stages, seen = tiny.MemoryStages(), []
    for part in (planted, alone):
        named = role("attack", part)
        ctx = tiny.context(part, role=named, visible=("a",), stages=stages)
        seen.append(part(BASE, honest, part.adversaries, ctx))
    assert stages.made == ["trigger"]
    (threat,) = seen[1].threats
    assert threat.trigger == seen[0].threats[0].trigger
    assert (dict(seen[1].experts), threat.attackers, alone.adversaries) == ({}, (), ())
    assert alone.victim == ("a", 1)
    assert alone.implanted({"asr": 0.0}) is None
    encoder, images = tiny.encoder(), tiny.split("a", "dev")[0].float() / 255
    scores = logits(encoder(BASE, threat.trigger(images)), tiny.head("a"))
    assert scores.shape == (48, tiny.CLASSES)
