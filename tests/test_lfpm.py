"""The mathematics of LFPM, and LFPM as a defence on a tiny encoder."""

import copy
from typing import Any

import pytest
import torch

from benchmark.algebra import add, norm, task_vector
from benchmark.artifacts import below
from benchmark.components import build, identity, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.models.heads import logits
from benchmark.models.lora import Lora
from benchmark.models.moments import recorded
from benchmark.optimisation.prompts import shuffled
from benchmark.optimisation.sam import displacement, moved
from benchmark.optimisation.unlabelled import Batch, cross_entropy, freeze
from benchmark.seeds import generator
from benchmark.selection import dev_parts, passes_used
from benchmark.types import Grant, Model
from lfpm.budget import cost, plan
from lfpm.choices import Losses, Partitioning, Path, PerImage, Sharpness
from lfpm.descent import _sizes
from lfpm.losses import Energy, node_terms
from lfpm.partition import Partition, captured, fit
from lfpm.path import at, count, nodes, path_gradient
from lfpm.per_image import own_prompts
from lfpm.selection import Trial, choose, fresh_probes, trial
from lfpm.sharpness import displaced, upwards
from lfpm.stopping import LOOKS, due
from lfpm.vector import adapter, along_inputs, dense, inverse_root
from tests import tiny

RULES = ["gauss_legendre", "uniform", "stratified", "random", "end"]
KINDS = ["sample", "shift_first", "clean_first"]
TINY = {
    "images": 12,
    "passes": 1200,
    "mining.prompts.frame_width": 1,
    "mining.prompts.batch": 2,
    "mining.prompts.patch_size": [4, 4],
    "mining.prompts.stride": 4,
    "mining.scouting": 2,
    "mining.warmup": 1,
    "mining.steps": 1,
    "descent.batch": 3,
    "descent.lr": 0.01,
    "sharpness.batch": 2,
    "selection.probe.frame_width": 1,
    "selection.probe.batch": 2,
    "selection.probe.patch_size": [4, 4],
    "selection.probe.stride": 4,
    "selection.steps": 1,
    "selection.adapt": 1,
    "selection.grid": [0.5, 1.0],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: two threads only wait for each other
    yield
    torch.set_num_threads(before)


def path(rule: Any = "gauss_legendre", nodes=2, start=0.0) -> Path:
    return Path(rule=rule, nodes=nodes, start=start, share=False)


def sharp(kind: Any, rho: float, adaptive=False) -> Sharpness:
    return Sharpness(kind=kind, adaptive=adaptive, rho=rho, batch=1)


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


def two_layers(weights, k=0):
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
    found = path_gradient(lambda w, k: w["w"] * prompt, merged, tau, quadrature, (prompt,))
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
    found = path_gradient(lambda w, k: w["f"].square().sum(), b, tau, nodes(path(), generator()))
    g = b["f"] + tau["f"]
    exact = (b["f"].square().sum() + (b["f"] * g).sum() + g.square().sum()) / 3
    assert found.value == pytest.approx(float(exact), rel=1e-6)
    tau = {"f": torch.zeros(2)}
    for _ in range(60):
        step = path_gradient(lambda w, k: w["f"].square().sum(), b, tau, nodes(path(), generator()))
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


def by_path(tau):
    quadrature = nodes(path(), generator())
    return path_gradient(two_layers, two_layer_weights("merged"), tau, quadrature).weights


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("kind", ["ascent", "path_aware", "node_ascent"])
def test_rho_zero_is_no_sam(kind, adaptive):
    merged, tau = two_layer_weights("merged"), two_layer_weights("tau")
    settings = sharp(kind, 0.0, adaptive)
    there = displaced(settings, tau, merged, by_path)
    assert all(torch.equal(there[name], tau[name]) for name in tau)
    by = upwards(settings, merged, by_path(tau))
    assert all(not value.any() for value in by.values())


def test_sam_displaces_uphill_and_path_aware_towards_the_merged_model():
    tau = two_layer_weights("tau")
    gradient = by_path(tau)
    there = displaced(sharp("ascent", 0.1), tau, tau, by_path)
    moved = {name: there[name] - tau[name] for name in tau}
    assert norm(moved) == pytest.approx(0.1)
    assert sum((moved[n] * gradient[n]).sum() for n in tau) == pytest.approx(0.1 * norm(gradient))
    back = displaced(sharp("path_aware", 0.1), tau, tau, by_path)
    assert norm(back) == pytest.approx(norm(tau) - 0.1)


def test_adaptive_ascent_leaves_weights_of_zero_where_they_are():
    tau = two_layer_weights("tau")
    sizes = {"a": torch.zeros_like(tau["a"]), "b": tau["b"]}
    there = displaced(sharp("ascent", 0.1, adaptive=True), tau, sizes, by_path)
    assert torch.equal(there["a"], tau["a"])
    assert not torch.equal(there["b"], tau["b"])


@pytest.mark.parametrize("kind", ["ascent", "node_ascent"])
def test_adaptive_ascent_is_that_of_asam(kind):
    weights = {"w": torch.tensor([2.0, -1.0, 0.0])}
    gradient = {"w": torch.tensor([0.5, 3.0, 7.0])}
    # T g = (1, 3, 0), |T g| = sqrt(10); eps = rho T (T g) / |T g|, uphill whatever w's sign.
    expected = 0.1 * torch.tensor([2.0, 3.0, 0.0]) / 10**0.5
    assert torch.allclose(
        upwards(sharp(kind, 0.1, adaptive=True), weights, gradient)["w"], expected
    )


def test_ascent_at_a_node_takes_the_gradient_at_its_own_displaced_weights():
    merged, tau = two_layer_weights("merged"), two_layer_weights("tau")
    quadrature, settings = [(0.5, 0.25), (1.0, 0.75)], sharp("node_ascent", 0.1)
    found = path_gradient(
        two_layers, merged, tau, quadrature, ascend=lambda w, g: upwards(settings, w, g)
    )
    zero = {name: torch.zeros_like(value) for name, value in tau.items()}
    expected = dict(zero)
    for alpha, weight in quadrature:
        here = at(merged, tau, alpha)
        first = path_gradient(two_layers, here, zero, [(1.0, 1.0)]).weights
        there = moved(here, displacement(first, 0.1))
        second = path_gradient(two_layers, there, zero, [(1.0, 1.0)]).weights
        expected = {n: expected[n] + alpha * weight * second[n] for n in expected}
    assert all(torch.allclose(found.weights[n], expected[n], rtol=1e-10) for n in tau)


# -- the form of tau_a ---------------------------------------------------------------------------


def random_moment(size, rank, seed="moment"):
    rows = torch.randn(rank, size, generator=generator(seed), dtype=torch.float64)
    return rows.T @ rows / rank


def test_the_metric_is_an_inverse_root_of_unit_mean_square():
    moment = random_moment(6, 3)
    found = inverse_root(moment, 0.01).double()
    assert torch.allclose(found, found.T, atol=1e-6)
    assert found.square().sum() / 6 == pytest.approx(1, rel=1e-5)
    scaled = moment / torch.linalg.eigvalsh(moment).mean() + 0.01 * torch.eye(6)
    product = found @ scaled @ found
    assert torch.allclose(product, product[0, 0] * torch.eye(6).double(), atol=1e-5)
    assert torch.allclose(inverse_root(moment, 1e6), torch.eye(6), atol=1e-4)


def test_a_step_in_the_metric_spares_the_clean_outputs():
    # Of two directions, clean inputs excite the first a hundred times as much.
    maps = {"fc.weight": inverse_root(torch.diag(torch.tensor([1.0, 1e-4])), 1e-4)}
    form = dense({"fc.weight": torch.zeros(3, 2)}, maps)
    tau = form.vector({"fc.weight": torch.ones(3, 2)})["fc.weight"]
    assert (tau[:, 1] / tau[:, 0]).min() > 30


def test_the_projection_is_mapped_along_its_first_axis():
    value, by = torch.randn(4, 3, generator=generator("proj")), random_moment(4, 5).float()
    assert torch.equal(along_inputs("proj", value, by), by @ value)
    assert torch.allclose(along_inputs("w", value.T, by), (by @ value).T, atol=1e-6)
    conv = torch.randn(2, 1, 2, 2, generator=generator("conv"))
    assert torch.equal(along_inputs("conv", conv, by), (conv.view(2, 4) @ by).view_as(conv))


def test_gradients_are_pulled_back_by_the_chain_rule():
    merged = {"w": torch.zeros(3, 2), "b": torch.zeros(3)}
    maps = {"w": random_moment(2, 4).float()}
    form = dense(merged, maps)
    gradient = {"w": torch.randn(3, 2, generator=generator("g")), "b": torch.ones(3)}
    found = form.pulled_back(form.start, gradient)
    assert torch.allclose(found["w"], gradient["w"] @ maps["w"].T, atol=1e-6)
    assert torch.equal(found["b"], gradient["b"])


# -- moments of clean inputs ---------------------------------------------------------------------


def test_moments_are_those_of_what_each_layer_is_fed():
    encoder, weights = tiny.encoder(), tiny.base()
    images = torch.rand(5, 3, 16, 16, generator=generator("images"))
    with recorded(encoder, weights) as moments:
        clean = encoder(weights, images)
    means = moments.means()
    # Least squares: a linear layer's mean squared output change under dW is tr(dW M dW^T).
    for name, moment in means.items():
        assert torch.allclose(moment, moment.T)
        assert torch.linalg.eigvalsh(moment).min() > -1e-9
        expected = weights[name].shape[0 if name == "proj" else 1]
        assert len(moment) == expected * (
            weights[name][0, 0].numel() if name.startswith("conv") else 1
        )
    assert set(means) == {
        "conv1.weight", "proj",
        *(f"transformer.resblocks.0.{part}" for part in (
            "attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight",
        )),
    }  # fmt: skip
    # The last layer's outputs are the features: their moment follows from its inputs'.
    through = weights["proj"].double().T @ means["proj"] @ weights["proj"].double()
    assert torch.allclose(through, clean.T.double() @ clean.double() / 5, atol=1e-5)
    assert torch.equal(encoder(weights, images), clean), "and no hook stays behind"


def test_moments_of_the_attention_output_predict_its_change():
    encoder, weights = tiny.encoder(), tiny.base()
    images = torch.rand(4, 3, 16, 16, generator=generator("images"))
    seen = []
    hook = encoder.tower.transformer.resblocks[0].attn.register_forward_hook(
        lambda _m, _a, out: seen.append(out[0])
    )
    with recorded(encoder, weights) as moments:
        encoder(weights, images)
    name = "transformer.resblocks.0.attn.out_proj.weight"
    change = 0.1 * torch.randn(weights[name].shape, generator=generator("change"))
    encoder({**weights, name: weights[name] + change}, images)
    hook.remove()
    found = (seen[1] - seen[0]).flatten(0, 1).double().square().sum(1).mean()
    moment = moments.means()[name]
    expected = (change.double() @ moment @ change.double().T).trace()
    assert found == pytest.approx(float(expected), rel=1e-4)


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


@pytest.mark.parametrize("match", ["clean", "all"])
@pytest.mark.parametrize("reference", ["merged", "current"])
def test_the_terms_of_a_node_by_hand(reference: Any, match: Any):
    """Two tasks of two images, one after the other; s = 2, and every weight another."""
    rng = generator("by hand")
    own, now, prompted = (torch.randn(4, 6, generator=rng) for _ in range(3))
    heads = tuple(torch.randn(3, 6, generator=rng) for _ in range(2))
    labels = (torch.tensor([0, 2]), torch.tensor([1, 1]))

    def log_probs(features, i):
        return torch.log_softmax(logits(features[i : i + 1], heads[i // 2])[0], 0)

    frozen = tuple(torch.stack([log_probs(own, i) for i in pair]) for pair in ((0, 1), (2, 3)))
    batch = Batch(torch.zeros(4, 3, 8, 8), own, labels, frozen, heads)
    settings = Losses(reference=reference, match=match, mu=0.3, beta=0.5, nu=0.7)
    energy = Energy([Partition("sample"), Partition("sample")], 2.0)
    now.requires_grad_()
    terms = node_terms(now, prompted, batch, energy, settings)
    expected = dict.fromkeys(("energy", "cross_entropy", "match", "kl"), 0.0)
    for i in range(4):
        unit = own[i] / own[i].norm()
        shift = (prompted[i] - (own[i] if reference == "merged" else now[i])).detach()
        drift = (now[i] - own[i]).detach()
        expected["energy"] += float((shift - (shift @ unit) * unit).square().sum()) / 2 / 4
        held = drift if match == "all" else (drift @ unit) * unit
        expected["match"] += float(held.square().sum()) / 2 / 4
        expected["cross_entropy"] -= float(log_probs(prompted, i)[labels[i // 2][i % 2]]) / 4
        before, after = log_probs(own, i), log_probs(now, i).detach()
        expected["kl"] += float((before.exp() * (before - after)).sum()) / 4
    found = {name: float(value.detach()) for name, value in vars(terms).items()}
    assert found == pytest.approx(expected, rel=1e-4)
    whole = expected["energy"] + 0.3 * expected["cross_entropy"]
    whole += 0.5 * (expected["match"] + 0.7 * expected["kl"])
    assert float(terms.total(settings).detach()) == pytest.approx(whole, rel=1e-4)
    assert not terms.energy.requires_grad, "what prompted features are drawn to is held fixed"


# -- the choice of lambda_a ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reached", "agreement", "chosen", "met"),
    [
        ([0.3, 0.2, 0.0], [1.0, 0.99, 0.9], 0.6, True),
        ([0.3, 0.3, 0.1], [1.0, 0.98, 0.9], 0.6, False),
        ([0.3, 0.2, 0.1], [0.9, 0.8, 0.7], 0.5, False),
        ([-0.1, 0.2, 0.1], [1.0, 0.98, 0.9], 0.5, True),
    ],
)
def test_rule_for_lambda(reached, agreement, chosen, met):
    rule = lfpm(
        **{
            "selection.grid": [0.5, 0.6, 0.7],
            "selection.reach": 0.5,
            "selection.agreement": 0.97,
        }
    ).selection
    table = dict(zip(rule.grid, zip(reached, agreement, strict=True), strict=True))
    table[0.0] = (0.4, 1.0)
    choice = choose(rule, lambda scale: Trial(scale, *table[scale]))
    assert (choice.scale, choice.met) == (chosen, met)


@pytest.mark.parametrize(
    ("agreement", "chosen", "met", "looks"),
    [
        ([1.0, 0.9, 0.98], 0.7, True, 1),
        ([1.0, 0.97, 0.9], 0.6, True, 2),
        ([0.9] * 3, 0.5, False, 3),
    ],
)
def test_without_probes_the_largest_that_agrees_is_taken(agreement, chosen, met, looks):
    grid = [0.5, 0.6, 0.7]
    rule = lfpm(
        **{"selection.grid": grid, "selection.reach": None, "selection.agreement": 0.97}
    ).selection
    table = dict(zip(grid, agreement, strict=True))
    choice = choose(rule, lambda scale: Trial(scale, None, table[scale]))
    assert (choice.scale, choice.met, len(choice.trials)) == (chosen, met, looks)
    assert choice.undefended == Trial(0.0, None, 1.0)


# -- the defence ---------------------------------------------------------------------------------


BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGED = add(BASE, task_vector(EXPERTS[0].weights, BASE), 0.5)
MERGE = tiny.merge_of(Model(MERGED, info={"scale": 0.5}))


def defend(method, seed=0, **settings):
    ctx = tiny.context(method, role=("defense", "lfpm"), seed=seed, images=15, **settings)
    return method(MERGE, BASE, EXPERTS, ctx), ctx


@pytest.mark.parametrize("goal", ["class", "away"])
def test_probes_by_hand(goal: Any):
    """Prompts as drawn; the control of those without a goal is their own pixels, shuffled."""
    start = {"selection.steps": 0, "selection.adapt": 0, "selection.probe.goal": goal}
    method = lfpm(**{**start, "selection.reach": 0.5, "selection.images": 4})
    ctx = tiny.context(method, role=("defense", "lfpm"), images=15)
    _, held = dev_parts(ctx, tiny.TASKS, method.needs[0])
    probes = fresh_probes(method.selection, MERGED, freeze(ctx, MERGED, held), ctx)
    found = trial(0.5, BASE, probes, ctx)
    rng, rate, same = ctx.rng("probe"), 0.0, 0.0
    batch = probes.data.first(4)
    given = probes.pool.assign(batch.labels, rng)
    shown = [batch.images, probes.pool.apply(batch.images, given)]
    if goal == "away":
        shown.append(shuffled(probes.pool, rng).apply(batch.images, given))
    with torch.no_grad():
        said = [[s.argmax(1) for s in batch.logits(ctx.encoder(BASE, x))] for x in shown]
    for task, labels in enumerate(batch.labels):
        clean, prompted = said[0][task], said[1][task]
        same += float((clean == labels).float().mean()) / 3
        if given.goals is not None:
            rate += float((prompted == given.goals[task]).float().mean()) / 3
        else:
            by_prompt, by_control = prompted != clean, said[2][task] != clean
            rate += float(by_prompt.float().mean() - by_control.float().mean()) / 3
    assert (found.scale, found.reached) == (0.5, pytest.approx(rate))
    assert found.agreement == pytest.approx(same)
    assert trial(0.0, MERGED, probes, ctx).agreement == 1


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
    assert prompts.shape == (tiny.CLASSES * lfpm().mining.prompts.members, 3, 16, 16)
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


PER_IMAGE = {"bound": 0.1, "steps": 3, "lr": 0.5}
VARIANTS = [
    {},
    {"path.rule": "end", "sharpness.kind": "none", "metric.kind": "none"},
    {"path.rule": "stratified", "path.nodes": 3, "sharpness.kind": "ascent"},
    {"path.rule": "random", "sharpness.kind": "node_ascent", "losses.reference": "current"},
    {"partition.kind": "shift_first", "partition.refresh": 2, "losses.match": "clean"},
    {"partition.kind": "clean_first", "mining.restart": 3, "mining.at": "end"},
    {"partition.kind": "none", "mining.free": False, "path.share": False},
    {"mining.feature_weight": 0.3, "mining.prompts.fulls": 1, "passes": 900},
    {"mining.prompts.goal": "away", "mining.prompts.places": "fixed", "mining.prompts.frames": 1},
    {"selection.reach": 0.5, "mining.scouting": 0, "mining.warmup": 2},
    {"per_image": PER_IMAGE, "mining.free": False},
    {"per_image": PER_IMAGE, "mining.free": False, "mining.steps": 0, "path.share": False},
    {
        "selection.reach": 0.5,
        "selection.probe.goal": "away",
        "sharpness.adaptive": True,
        "sharpness.kind": "ascent",
    },
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
    tried = len(model.info["selection"]["trials"]) - 1
    untouched = len(method.selection.grid) - tried
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


def test_images_have_perturbations_of_their_own_that_stay_in_the_ball_and_climb():
    ctx = tiny.context(lfpm(), role=("defense", "lfpm"), images=15)
    changes = {"mining.free": False, "per_image": PER_IMAGE}
    problem, _ = lfpm(**changes)._prepare(MERGED, EXPERTS, ctx)
    batches = [problem.data.first(4), problem.data.first(4)]

    def shown(steps):
        rule = PerImage(bound=0.1, steps=steps, lr=0.5)
        pool, found = own_prompts(problem, rule, batches, MERGED, ctx, ("per image", 0))
        images = [pool.apply(batch.images, given) for batch, given in found]
        scores = [
            b.logits(problem.encoder(MERGED, own)) for b, own in zip(batches, images, strict=True)
        ]
        pairs = zip(scores, batches, strict=True)
        losses = [float(cross_entropy(score, batch.labels)) for score, batch in pairs]
        return torch.cat([given.members for _, given in found]), images, losses

    members, images, losses = shown(4)
    assert members.tolist() == list(range(24))
    for batch, own in zip(batches, images, strict=True):
        moved = (own - batch.images).abs()
        assert moved.max() <= 0.1 + 1e-6
        assert moved.amax((1, 2, 3)).min() > 0.05
        assert own.min() >= 0
        assert own.max() <= 1
    assert not torch.equal(*images)  # equal images in two batches, each with a start of its own
    assert all(last > first for first, last in zip(shown(1)[2], losses, strict=True))


def test_steps_of_shared_prompts_are_refused_where_there_are_none():
    with pytest.raises(BenchError, match=r"mining\.free.*set it to false"):
        lfpm(per_image=PER_IMAGE)


def test_an_option_that_is_off_is_not_part_of_the_identity():
    assert "per_image" not in identity(lfpm())["values"]
    own = lfpm(**{"per_image": PER_IMAGE, "mining.free": False})
    assert identity(own)["values"]["per_image"] == PER_IMAGE


PROBING = {"selection.steps": 20, "selection.probe.patch_size": [12, 12], "passes": 2400}


@pytest.mark.parametrize(
    ("stop", "agreement", "ends"), [(0.5, 0.0, True), (0.1, 0.0, False), (0.5, 1.0, False)]
)
def test_training_ends_at_the_first_look_at_which_both_bounds_hold(stop, agreement, ends):
    """`reached` and `agreement` of the looks are those of probes made here once more."""
    method = lfpm(**{**PROBING, "descent.stop": stop, "selection.agreement": agreement})
    model, ctx = defend(method)
    assert passes_used(ctx.encoder) <= method.passes
    whole = plan(method, 3, 24, 12)
    looks = [Trial(**found) for found in model.info["looks"]]
    undefended, again = looked_at(method, model, at_once=ends)
    assert undefended > 0
    enough = [look.reached <= stop * undefended and look.agreement >= agreement for look in looks]
    assert enough == [False] * (len(looks) - 1) + [ends]
    if ends:
        assert model.info["steps"] == sorted(due(whole))[len(looks) - 1] < whole
        assert again == looks[-1]
    else:
        assert model.info["steps"] == whole
        assert len(looks) == LOOKS


def looked_at(method, model, at_once):
    """The probes' success on theta_m, and what the last look must have found if it ended it all."""
    ctx = tiny.context(method, role=("defense", "lfpm"), images=15)
    _, held = dev_parts(ctx, tiny.TASKS, method.needs[0])
    probes = fresh_probes(method.selection, MERGED, freeze(ctx, MERGED, held), ctx)
    undefended = trial(0.0, MERGED, probes, ctx).reached
    if not at_once:
        return undefended, None
    largest = method.selection.grid[-1]  # nothing is asked of the agreement there
    weights = add(MERGED, below(model.artifacts, "tau_a/"), largest)
    return undefended, trial(largest, weights, probes, ctx)


def test_probes_that_reach_nothing_on_the_merge_end_nothing():
    method = lfpm(**{"descent.stop": 1.0, "selection.agreement": 0.0, "passes": 2400})
    model, _ = defend(method)
    assert looked_at(method, model, at_once=False) == (0.0, None)
    assert {found["reached"] for found in model.info["looks"]} == {0.0}
    assert len(model.info["looks"]) == LOOKS


def test_looks_are_spread_evenly_and_never_before_the_first_step():
    assert due(50) == {10, 20, 30, 40}
    assert due(3) == {1, 2}
    assert due(1) == due(0) == frozenset()


def test_without_a_bound_nothing_is_asked_on_the_way():
    method = lfpm()
    assert defend(method)[0].info["looks"] == []
    asked = lfpm(**{"descent.stop": 0.5})
    assert cost(method, 3, 3, 24, 12) < cost(asked, 3, 3, 24, 12)


def test_shared_images_cost_the_same_and_are_more():
    apart, same = (
        defend(lfpm(**{"path.share": share, "selection.grid": [0.5]}))[0] for share in (True, False)
    )
    assert apart.info["passes"] == pytest.approx(same.info["passes"])
    assert not tiny.equal(apart.encoder, same.encoder)


@pytest.mark.parametrize("metric", ["clean", "none"])
def test_an_adapter_stays_low_rank_on_its_targets_and_scales_linearly(metric):
    lora = Lora(targets="all", rank=2, alpha=2.0, lr=0.01)
    method = lfpm(**{"metric.kind": metric})
    model, _ = defend(method, peft=lora)
    tau = below(model.artifacts, "tau_a/")
    for name, value in tau.items():
        if name not in lora.matrices(MERGED):
            assert not value.any()
            continue
        slices = 3 if name.endswith("in_proj_weight") else 1
        for part in value.chunk(slices):
            assert torch.linalg.matrix_rank(part, rtol=1e-5) <= 2
        assert value.any()
    scale = model.info["lambda_a"]
    for name, value in model.encoder.items():
        assert torch.allclose(value, MERGED[name] + scale * tau[name], atol=1e-6)


def test_every_tensor_of_the_adapter_is_trained():
    lora = Lora(targets="all", rank=2, alpha=2.0, lr=0.01)
    form = adapter(lora, MERGED, {}, generator("adapter"))
    variables = {n: v + 0.01 if n.endswith("/B") else v for n, v in form.start.items()}
    encoder, images = tiny.encoder(), torch.rand(4, 3, 16, 16, generator=generator("images"))

    def loss(weights, k):
        return encoder(weights, images).square().sum()

    with torch.no_grad():
        tau = form.vector(variables)
    found = path_gradient(loss, MERGED, tau, [(0.5, 0.5), (1.0, 0.5)])
    for name, gradient in form.pulled_back(variables, found.weights).items():
        assert gradient.any(), name


@pytest.mark.parametrize("peft", [None, Lora(targets="all", rank=2, alpha=2.0, lr=0.01)])
def test_the_adaptive_step_is_measured_by_the_weights_or_an_adapters_factors(peft):
    method = lfpm(**{"sharpness.kind": "ascent", "sharpness.adaptive": True})
    ctx = tiny.context(method, role=("defense", "lfpm"), images=15, peft=peft)
    problem, _ = method._prepare(MERGED, EXPERTS, ctx)
    variables = {name: value + 0.01 for name, value in problem.form.start.items()}
    tau = problem.form.vector(variables)
    sizes = _sizes(problem, variables)
    assert sizes.keys() == variables.keys()
    for name, size in sizes.items():
        expected = MERGED[name] + tau[name] if peft is None else variables[name]
        assert torch.equal(size, expected), name


def test_the_shipped_configuration_has_every_stated_part_on():
    node = option("defense", "lfpm")
    method = build({**node, "images": 300, "passes": 50000}, "defense")
    assert method.partition.kind != "none"
    assert count(method.path) >= 2
    assert method.sharpness.kind != "none"
    assert method.sharpness.rho > 0
    assert method.mining.warmup + method.mining.steps > 0
