"""Adaptive attackers: BadMerging-On plus one term, which is what it says and off at strength 0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.components import build, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.optimisation.prompts import new_pool
from benchmark.optimisation.unlabelled import cross_entropy, freeze
from benchmark.seeds import generator
from benchmark.types import Compromise, Expert, Images
from lfpm.adaptive import Adaptive
from lfpm.simulation import anti_backdoor, length, outside, shifted, top_directions
from tests import tiny

BASE = tiny.base()
KINDS = ("adaptive_clean_subspace", "adaptive_path", "adaptive_unlearn")
FEW = {
    "adversary": "a", "size": 4, "epochs": None,
    "trigger_steps": 5, "trigger_batch": 8, "trigger_heldout": 8,
}  # fmt: skip


def attack(name: str, **values: Any) -> Adaptive:
    node = option("attack", name)
    prompts = {**node["simulation"]["prompts"], "patches": 2, "batch": 8}
    quick = {"every": 2, "images": 24, "batch": 8, "mining": 2, "steps": 2, "prompts": prompts}
    simulation = {**node["simulation"], **quick}
    return build({**node, **FEW, "simulation": simulation, **values}, "attack")


@pytest.fixture(scope="module")
def honest() -> dict[str, Expert]:
    return {"a": tiny.honest_expert("a", BASE)}


def run(part: Any, honest: dict[str, Expert], **settings: Any) -> Compromise:
    ctx = tiny.context(part, role=("attack", "tested"), visible=part.adversaries, **settings)
    return part(BASE, honest, part.adversaries, ctx)


# -- the clean subspace


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(0, 99))
def test_outside_is_the_orthogonal_rest(rank: int, seed: int):
    rng = generator("outside", seed)
    clean, shift, own = (torch.randn(9, 8, generator=rng).double() for _ in range(3))
    basis = top_directions(clean, rank)
    assert basis.shape == (8, rank)
    assert torch.allclose(basis.T @ basis, torch.eye(rank).double(), atol=1e-9)
    rest = outside(shift, own, basis)
    assert (rest * own).sum(1).abs().max() < 1e-9
    assert rank == 0 or (rest @ basis).abs().max() < 1e-9
    assert torch.allclose(outside(rest, own, basis), rest, atol=1e-9)
    within = 2 * own + torch.randn(9, rank, generator=rng).double() @ basis.T
    assert outside(within, own, basis).abs().max() < 1e-9


def test_without_a_basis_it_is_lfpms_own_partition():
    from lfpm.partition import Partition

    shift, own = torch.randn(5, 8), torch.randn(5, 8)
    same = Partition("sample").onto_adversarial(shift, own)
    assert torch.allclose(outside(shift, own, torch.zeros(8, 0)), same)


# -- the simulated defence


def simulated(part: Adaptive, weights: Any, unit: float, seed: int = 0) -> Any:
    ctx = tiny.context(part)
    images, _ = tiny.split("a", "train")
    data = freeze(ctx, weights, {"a": Images(images, None)})
    rng = generator("simulation", seed)
    pool = new_pool(part.simulation.prompts, (tiny.CLASSES,), tiny.SIDE, rng)
    tau, mined = anti_backdoor(ctx.encoder, weights, unit, data, pool, part.simulation, rng)
    return tau, mined, data


def test_tau_has_bounded_length_and_unlearns_the_prompts(honest: dict[str, Expert]):
    weights = honest["a"].weights
    before, unit = tiny.copied(weights), length(weights, BASE)
    part = attack("adaptive_unlearn")
    longer = replace(part.simulation, steps=6, mining=10, stride=0.2)
    part = replace(part, simulation=longer)
    tau, pool, data = simulated(part, weights, unit)
    assert tiny.equal(weights, before)
    zero = {name: torch.zeros_like(value) for name, value in tau.items()}
    assert 0 < length(tau, zero) <= 6 * 0.2 * unit * (1 + 1e-5)
    assert tiny.equal(tau, simulated(part, weights, unit)[0])
    assert tiny.equal(simulated(part, weights, 0.0)[0], zero)
    batch = data.first(24)
    prompted = pool.apply(batch.images, pool.assign(batch.labels, generator("given")))

    def loss(model: Any) -> float:
        with torch.no_grad():
            return float(cross_entropy(batch.logits(tiny.encoder()(model, prompted)), batch.labels))

    assert loss(shifted(weights, tau)) < loss(weights)


# -- the attacks


@pytest.mark.parametrize("name", KINDS)
def test_strength_zero_is_badmerging_on(name: str, honest: dict[str, Expert]):
    plain = run(build({**option("attack", "badmerging_on"), **FEW}, "attack"), honest)
    found = run(attack(name, strength=0.0), honest)
    assert tiny.equal(found.experts["a"].weights, plain.experts["a"].weights)
    assert found.threats == plain.threats


@pytest.mark.parametrize("name", KINDS)
def test_alpha_zero_is_the_honest_expert(name: str, honest: dict[str, Expert]):
    found = run(attack(name, alpha=0.0, strength=2.0), honest).experts["a"]
    assert tiny.equal(found.weights, honest["a"].weights)


@pytest.mark.parametrize("name", KINDS)
def test_the_term_changes_training_and_nothing_else(name: str, honest: dict[str, Expert]):
    base = tiny.copied(BASE)
    part = attack(name, strength=1.0)
    first, second = run(part, honest), run(part, honest)
    plain = run(attack(name, strength=0.0), honest)
    assert tiny.equal(first.experts["a"].weights, second.experts["a"].weights)
    assert not tiny.equal(first.experts["a"].weights, plain.experts["a"].weights)
    assert first.threats == plain.threats
    assert tiny.equal(BASE, base)
    assert part.implanted({"asr": part.min_asr}) is None
    assert "was not planted" in str(part.implanted({"asr": 0.0}))
    assert part.victim == ("a", 1)


def test_the_shift_is_held_inside_the_clean_subspace(honest: dict[str, Expert]):
    images, _ = tiny.split("a", "train")
    pixels, encoder = images.float() / 255, tiny.encoder()
    recipe = replace(tiny.RECIPE, min_steps=20)
    shares = []
    for strength in (0.0, 50.0):
        found = run(attack("adaptive_clean_subspace", strength=strength), honest, recipe=recipe)
        weights, trigger = found.experts["a"].weights, found.threats[0].trigger
        with torch.no_grad():
            clean, shifted_to = encoder(weights, pixels), encoder(weights, trigger(pixels))
        rest = outside(shifted_to - clean, clean, torch.zeros(16, 0))
        shares.append(float(rest.square().sum() / clean.square().sum()))
    assert shares[1] < shares[0] / 2


@pytest.mark.parametrize("name", ["adaptive_path", "adaptive_unlearn"])
def test_without_a_tau_the_term_is_the_plain_loss_again(name: str, honest: dict[str, Expert]):
    # tau = 0: the term equals the plain loss, so strength 1 is twice its weight.
    still = replace(attack(name).simulation, steps=0)
    found = run(replace(attack(name, alpha=2.0, strength=1.0), simulation=still), honest)
    plain = run(attack(name, alpha=4.0, strength=0.0), honest)
    for part, value in found.experts["a"].weights.items():
        assert torch.allclose(value, plain.experts["a"].weights[part], atol=2e-4), part


def test_it_sees_its_own_task_only_and_refuses_nonsense():
    part = attack("adaptive_unlearn")
    ctx = tiny.context(part, role=("attack", "tested"), visible=("b",))
    with pytest.raises(AccessDenied, match="may not see images of task 'a'"):
        part(BASE, {}, part.adversaries, ctx)
    with pytest.raises(BenchError, match=r"r_min=0\.9 is above r_max=0\.5"):
        attack("adaptive_path", r_min=0.9, r_max=0.5)
    with pytest.raises(BenchError, match=r"attack\.against='everything' is not valid"):
        attack("adaptive_path", against="everything")
