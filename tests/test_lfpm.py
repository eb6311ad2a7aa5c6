"""The mathematics of LFPM, and LFPM as a defence on a tiny encoder."""

import copy
from typing import Any

import pytest
import torch

from benchmark.algebra import add, task_vector
from benchmark.components import build, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.optimisation.unlabelled import Batch
from benchmark.seeds import generator
from benchmark.selection import passes_used
from benchmark.types import Grant, Model
from lfpm.budget import cost
from lfpm.choices import Losses, Partitioning, Path, Sharpness
from lfpm.losses import Energy, node_terms
from lfpm.partition import Partition, captured, fit
from lfpm.path import at, count, nodes, path_gradient
from lfpm.selection import Trial, choose
from lfpm.sharpness import sharp_gradient
from tests import tiny

RULES = ["gauss_legendre", "uniform", "stratified", "random", "end"]
KINDS = ["sample", "shift_first", "clean_first"]
TINY = {
    "images": 12,
    "passes": 1200,
    "mining.prompts.frame_width": 1,
    "mining.prompts.batch": 2,
    "mining.warmup": 2,
    "mining.steps": 1,
    "descent.batch": 3,
    "descent.lr": 0.01,
    "sharpness.batch": 2,
    "selection.probe.frame_width": 1,
    "selection.probe.batch": 2,
    "selection.steps": 1,
    "selection.grid": [0.5, 1.0],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: two threads only wait for each other
    yield
    torch.set_num_threads(before)


def path(rule: Any = "gauss_legendre", nodes=2, start=0.0) -> Path:
    return Path(rule=rule, nodes=nodes, start=start)


def partitioning(kind, rank=3, energy=0.8) -> Partitioning:
    return Partitioning(kind=kind, rank=rank, energy=energy, refresh=0)


def lfpm(**changes):
    node = copy.deepcopy(option("defense", "lfpm"))
    for name, value in {**TINY, **changes}.items():
        *groups, last = name.split(".")
        place = node
        for group in groups:
            place = place[group]
        assert last in place
        place[last] = value
    return build(node, "defense")


# -- quadrature and the path gradient ------------------------------------------------------------


def two_layers(weights):
    rng = generator("input")
    inputs = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    return (torch.tanh(inputs @ weights["a"]) @ weights["b"]).square().sum()


def two_layer_weights(name):
    rng = generator(name)
    shapes = {"a": (4, 5), "b": (5, 2)}
    return {
        key: torch.randn(shape, generator=rng, dtype=torch.float64) for key, shape in shapes.items()
    }


@pytest.mark.parametrize("rule", RULES)
def test_accumulated_gradient_equals_autograd_through_the_quadrature(rule):
    merged, tau = two_layer_weights("merged"), two_layer_weights("tau")
    quadrature = nodes(path(rule, 3), generator("nodes"))
    leaves = {name: value.clone().requires_grad_() for name, value in tau.items()}
    whole = sum(w * two_layers(at(merged, leaves, alpha)) for alpha, w in quadrature)
    assert isinstance(whole, torch.Tensor)
    whole.backward()
    found = path_gradient(two_layers, merged, tau, quadrature)
    assert found.value == pytest.approx(whole.item(), rel=1e-12)
    for name, leaf in leaves.items():
        assert torch.allclose(found.weights[name], leaf.grad, rtol=1e-10)  # type: ignore[arg-type]


def test_inputs_get_the_path_gradient_without_alpha():
    merged, tau = {"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)}
    prompt = torch.tensor(3.0, requires_grad=True)
    quadrature = [(0.5, 0.25), (1.0, 0.75)]
    found = path_gradient(lambda w: w["w"] * prompt, merged, tau, quadrature, (prompt,))
    assert found.inputs[0] == pytest.approx(0.25 * 2 + 0.75 * 3)
    assert found.weights["w"] == pytest.approx((0.25 * 0.5 + 0.75) * 3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("start", [0.0, 0.2])
def test_nodes_lie_in_the_interval_and_weigh_one(rule, start):
    chosen = path(rule, 4, start)
    found = nodes(chosen, generator("nodes"))
    assert len(found) == count(chosen)
    assert sum(weight for _, weight in found) == pytest.approx(1)
    assert all(start <= alpha <= 1 for alpha, _ in found)


def test_two_gauss_nodes_are_exact_for_the_quadratic_energy():
    # f(theta(alpha)) = (1 - alpha) b + alpha g for a linear model: the integral of |f|^2 over [0,1]
    # is (|b|^2 + b.g + |g|^2)/3, least at g = -b/2 (spec 2.2).
    b, tau = {"f": torch.tensor([2.0, -1.0])}, {"f": torch.tensor([0.5, 3.0])}
    found = path_gradient(lambda w: w["f"].square().sum(), b, tau, nodes(path(), generator()))
    g = b["f"] + tau["f"]
    exact = (b["f"].square().sum() + (b["f"] * g).sum() + g.square().sum()) / 3
    assert found.value == pytest.approx(float(exact), rel=1e-6)
    tau = {"f": torch.zeros(2)}
    for _ in range(60):
        step = path_gradient(lambda w: w["f"].square().sum(), b, tau, nodes(path(), generator()))
        tau = {"f": tau["f"] - 0.5 * step.weights["f"]}
    assert torch.allclose(b["f"] + tau["f"], -b["f"] / 2, atol=1e-5)


def test_one_node_at_the_end_is_plain_fine_tuning():
    merged, tau = two_layer_weights("merged"), two_layer_weights("tau")
    tuned = {name: (merged[name] + tau[name]).requires_grad_() for name in merged}
    two_layers(tuned).backward()
    found = path_gradient(two_layers, merged, tau, nodes(path("end"), generator()))
    for name, value in tuned.items():
        assert torch.equal(found.weights[name], value.grad)  # type: ignore[arg-type]


# -- the SAM-like step ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ascent", "path_aware"])
def test_rho_zero_is_no_sam(kind):
    merged, tau = two_layer_weights("merged"), two_layer_weights("tau")

    def gradient(tau):
        return path_gradient(two_layers, merged, tau, nodes(path(), generator()))

    settings = Sharpness(kind=kind, rho=0.0, batch=1)
    found = sharp_gradient(settings, tau, gradient, gradient)
    plain = sharp_gradient(Sharpness(kind="none", rho=1.0, batch=1), tau, gradient, gradient)
    assert all(torch.equal(found.weights[name], plain.weights[name]) for name in tau)


def test_sam_displaces_uphill_and_path_aware_towards_the_merged_model():
    tau = two_layer_weights("tau")
    seen = []

    def gradient(tau):
        seen.append(tau)
        return path_gradient(two_layers, two_layer_weights("merged"), tau, [(1.0, 1.0)])

    sharp_gradient(Sharpness(kind="ascent", rho=0.1, batch=1), tau, gradient, gradient)
    here, there = seen
    direction = gradient(tau).weights
    assert sum(((there[n] - here[n]) * direction[n]).sum() for n in tau) > 0
    seen.clear()
    sharp_gradient(Sharpness(kind="path_aware", rho=0.1, batch=1), tau, gradient, gradient)
    assert len(seen) == 1
    before = sum(value.square().sum() for value in tau.values())
    assert sum(value.square().sum() for value in seen[0].values()) < before


# -- the partition -------------------------------------------------------------------------------


@pytest.fixture
def features():
    rng = generator("features")
    clean = torch.randn(20, 6, generator=rng) @ torch.randn(6, 16, generator=rng)
    return clean, torch.randn(20, 16, generator=rng) + 0.3 * clean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rank", [1, 3, 40])
def test_subspaces_are_orthogonal_projectors(features, kind, rank):
    clean, shift = features
    found = fit(partitioning(kind, rank), clean, shift)
    probe = torch.eye(16)
    for row in range(0, 20, 7):
        own = clean[row].expand(16, -1)
        p_a, p_c = found.onto_adversarial(probe, own), found.onto_clean(probe, own)
        assert (p_a @ p_c).abs().max() <= 1e-6
        assert (p_a @ p_a - p_a).abs().max() <= 1e-5
        assert (p_a - p_a.T).abs().max() <= 1e-5
        if kind != "clean_first":
            assert (p_a + p_c - probe).abs().max() <= 1e-5


def test_clean_first_with_all_energy_leaves_the_shift_outside_it(features):
    clean, _ = features
    found = fit(partitioning("clean_first", 4, 1.0), clean, clean - clean.mean(0))
    assert captured(found, clean, clean - clean.mean(0)) < 1e-6


def test_captured_energy(features):
    clean, shift = features
    assert captured(fit(partitioning("none"), clean, shift), clean, shift) == pytest.approx(1)
    shares = [
        captured(fit(partitioning("shift_first", rank), clean, shift), clean, shift)
        for rank in (1, 4, 16)
    ]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=1e-5)


# -- the node losses -----------------------------------------------------------------------------


def test_nothing_is_lost_at_the_merged_model():
    rng = generator("losses")
    features, head = torch.randn(5, 16, generator=rng), torch.randn(3, 16, generator=rng) * 10
    scores = torch.nn.functional.normalize(features, dim=1) @ head.T
    frozen = (scores.log_softmax(1),)
    batch = Batch(torch.zeros(5, 3, 8, 8), features, (scores.argmax(1),), frozen, (head,))
    energy = Energy([Partition("sample")], 2.0)
    settings = Losses(reference="merged", match="all", mu=1, beta=1, nu=1)
    terms = node_terms(features, features, batch, energy, settings)
    assert (terms.energy, terms.match) == (0, 0)
    assert abs(float(terms.kl)) < 1e-6
    longer = node_terms(features, 3 * features, batch, energy, settings)
    assert float(longer.energy) < 1e-6, "along its own clean feature a shift is not adversarial"
    other = node_terms(features, features.flip(0), batch, energy, settings)
    everything = (features.flip(0) - features).square().sum(1).mean() / 2.0
    assert 0 < other.energy <= everything + 1e-6
    assert float(other.total(settings)) > float(other.energy)


# -- the choice of lambda_a ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flips", "agreement", "chosen", "met"),
    [
        ([0.3, 0.2, 0.0], [1.0, 0.99, 0.9], 0.6, True),
        ([0.3, 0.3, 0.1], [1.0, 0.98, 0.9], 0.6, False),
        ([0.3, 0.2, 0.1], [0.9, 0.8, 0.7], 0.5, False),
        ([-0.1, 0.2, 0.1], [1.0, 0.98, 0.9], 0.5, True),
    ],
)
def test_rule_for_lambda(flips, agreement, chosen, met):
    rule = lfpm(
        **{
            "selection.grid": [0.5, 0.6, 0.7],
            "selection.flips": 0.5,
            "selection.agreement": 0.97,
        }
    ).selection
    table = dict(zip(rule.grid, zip(flips, agreement, strict=True), strict=True))
    table[0.0] = (0.4, 1.0)
    choice = choose(rule, lambda scale: Trial(scale, *table[scale]))
    assert (choice.scale, choice.met) == (chosen, met)


# -- the defence ---------------------------------------------------------------------------------


BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGED = add(BASE, task_vector(EXPERTS[0].weights, BASE), 0.5)
MERGE = tiny.merge_of(Model(MERGED, info={"scale": 0.5}))


def defend(method, seed=0, **settings):
    ctx = tiny.context(method, role=("defense", "lfpm"), seed=seed, images=15, **settings)
    return method(MERGE, BASE, EXPERTS, ctx), ctx


def test_defended_model_is_merged_plus_scaled_vector():
    model, _ = defend(lfpm())
    scale = model.info["lambda_a"]
    assert scale in (0.5, 1.0)
    assert set(model.encoder) == set(MERGED)
    for name, value in model.encoder.items():
        moved = MERGED[name] + scale * model.artifacts[f"tau_a/{name}"]
        assert torch.allclose(value, moved, atol=1e-6)
        assert not value.requires_grad
    assert model.info["tau_norm"] > 0
    assert 0 < model.info["captured"] <= 1
    assert set(model.info["losses"]) == {"energy", "cross_entropy", "match", "kl"}
    prompts = model.artifacts["prompt/a"]
    assert prompts.shape == (lfpm().mining.prompts.members, 3, 16, 16)
    assert prompts.abs().max() <= 1


def test_lambda_zero_returns_the_merged_model_bit_for_bit():
    model, _ = defend(lfpm(**{"selection.grid": [0.0]}))
    assert model.info["steps"] > 0
    assert tiny.equal(model.encoder, MERGED)


def test_same_seed_same_bits():
    first, second, other = (defend(lfpm(), seed)[0] for seed in (3, 3, 4))
    assert first.info == second.info
    assert tiny.equal(first.artifacts, second.artifacts)
    assert tiny.equal(first.encoder, second.encoder)
    assert not tiny.equal(first.encoder, other.encoder)


VARIANTS = [
    {},
    {"path.rule": "end", "sharpness.kind": "none"},
    {"path.rule": "stratified", "path.nodes": 3, "sharpness.kind": "path_aware"},
    {"path.rule": "random", "sharpness.batch": 9, "losses.reference": "current"},
    {"partition.kind": "shift_first", "partition.refresh": 2, "losses.match": "clean"},
    {"partition.kind": "clean_first", "mining.restart": 3, "mining.at": "end"},
    {"partition.kind": "none", "mining.free": True, "mining.prompts.patches": 2},
    {"mining.feature_weight": 0.0, "mining.prompts.fulls": 1, "passes": 700},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_pass_budget_is_used_and_never_exceeded(changes):
    method = lfpm(**changes)
    model, ctx = defend(method)
    spent = passes_used(ctx.encoder)
    assert model.info["passes"] == pytest.approx(spent)
    assert spent <= method.passes
    assert model.info["steps"] >= 1
    assert cost(method, model.info["steps"] + 1, 3, 24, 12) > method.passes
    untouched = 1 + len(method.selection.grid) - len(model.info["selection"]["trials"])
    if not untouched:
        assert spent == pytest.approx(cost(method, model.info["steps"], 3, 24, 12))


def test_budget_too_small_is_one_sentence():
    with pytest.raises(BenchError, match=r"budget\.passes=20 .*raise it"):
        defend(lfpm(passes=20))


def test_max_steps_ends_it_earlier():
    assert defend(lfpm(**{"descent.max_steps": 2}))[0].info["steps"] == 2


def test_it_asks_for_no_label_and_no_more_than_it_declares():
    (need,) = lfpm().needs
    assert need == Grant("dev", labels=False, per_task=12)
    with pytest.raises(AccessDenied):
        defend(lfpm(), granted=())
    with pytest.raises(AccessDenied):
        defend(lfpm(), granted=(Grant("dev", labels=False, per_task=11),))
    defend(lfpm(), granted=(need,))


def test_free_prompt_steps_move_the_prompts():
    still, free = ({"mining.steps": 0, "mining.free": free} for free in (False, True))
    one, two = (defend(lfpm(**changes))[0].artifacts["prompt/a"] for changes in (still, free))
    assert not torch.equal(one, two)


def test_the_shipped_configuration_has_every_stated_part_on():
    node = option("defense", "lfpm")
    method = build({**node, "images": 300, "passes": 50000}, "defense")
    assert method.partition.kind != "none"
    assert count(method.path) >= 2
    assert method.sharpness.kind != "none"
    assert method.sharpness.rho > 0
    assert method.mining.warmup + method.mining.steps > 0
