"""Merges that ask for images: their mathematics, their invariants, what they see and spend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.merging import adamerging, fisher, regmean
from baselines.merging.regmean import shrunk
from baselines.merging.simple_average import SimpleAverage
from baselines.merging.surgery import Surgery
from baselines.merging.task_arithmetic import TaskArithmetic
from baselines.merging.ties import ties
from benchmark import api
from benchmark.components import build, option, options
from benchmark.errors import AccessDenied, BenchError, IncompatibleWeights
from benchmark.listing import entry
from benchmark.models.heads import behind, logits
from benchmark.models.moments import recorded
from benchmark.optimisation.shared_risk import entropy
from benchmark.selection import passes_used
from benchmark.types import Expert, Grant, Model
from tests import tiny

BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
BUDGET = {"${budget.images}": 8, "${budget.passes}": 120}
FLOATS = sorted(BASE)


def merge(name: str, **values: Any) -> Any:
    """A merge's option with a small budget."""
    node = {k: v for k, v in option("merge", name).items() if k != "defaults"}
    small: dict[str, Any] = {k: BUDGET.get(str(v), v) for k, v in node.items()}
    if name == "surgery":
        small = {**small, "inner": option("merge", "task_arithmetic"), "steps": 5}
    return build({**small, **values}, "merge")


def asks_for_images(name: str) -> bool:
    node = option("merge", name)
    return "defaults" in node or "${" in str(node)


NAMES = [name for name in options("merge") if asks_for_images(name)]


def run(part: Any, experts: list[Expert] | None = None, **context: Any) -> Model:
    return part(BASE, EXPERTS if experts is None else experts, tiny.context(part, **context))


# -- all


def test_these_merges_are_there():
    adaptive = {f"adamerging_{kind}{more}" for kind in ("tw", "lw") for more in ("", "_pp")}
    assert {"fisher", "regmean", "regmean_mlp", "surgery", *adaptive} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_form_is_kept_inputs_are_not_changed_and_runs_repeat(name: str):
    part = merge(name)
    base, weights = tiny.copied(BASE), [tiny.copied(one.weights) for one in EXPERTS]
    ctx = tiny.context(part)
    before = passes_used(ctx.encoder)
    model = part(BASE, EXPERTS, ctx)
    assert passes_used(ctx.encoder) - before == pytest.approx(model.info["passes"])
    assert model.info["images"] == 8 * len(EXPERTS)
    assert model.info["labels"] == 0
    assert {k: (v.shape, v.dtype) for k, v in model.encoder.items()} == {
        k: (v.shape, v.dtype) for k, v in BASE.items()
    }
    assert not any(value.requires_grad for value in model.encoder.values())
    assert tiny.equal(BASE, base)
    assert all(tiny.equal(one.weights, old) for one, old in zip(EXPERTS, weights, strict=True))
    again = run(part)
    assert tiny.equal(model.encoder, again.encoder)
    assert all(tiny.equal(one, again.adapters[task]) for task, one in model.adapters.items())
    assert part.cost
    assert part.accepts(EXPERTS) is None
    assert "no expert" in part.accepts([])


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_tasks_and_experts_that_are_the_base_change_nothing(name: str):
    part = merge(name)
    model, turned = run(part), run(part, EXPERTS[::-1])
    for key, value in model.encoder.items():
        assert torch.allclose(turned.encoder[key], value, atol=2e-6), key
    same = [Expert(task, tiny.copied(BASE), f"base-{task}") for task in tiny.TASKS]
    assert tiny.equal(run(part, same).encoder, BASE)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_seen_is_declared(name: str):
    part = merge(name)
    assert part.needs == (Grant("dev", labels=False, per_task=8),)
    with pytest.raises(AccessDenied):
        run(part, granted=(Grant("dev", labels=False, per_task=7),))
    with pytest.raises(AccessDenied, match=f"merge '{name}' needs more than weights"):
        api.merge(name, BASE, {"a": BASE})


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_merged_is_refused_and_what_is_seen_is_listed(name: str):
    bad = {**EXPERTS[1].weights, "proj": torch.full_like(BASE["proj"], torch.nan)}
    with pytest.raises(IncompatibleWeights, match="task 'b' cannot be merged: proj is not fin"):
        run(merge(name), [EXPERTS[0], Expert("b", bad, "bad")])
    assert entry("merge", name)["sees"] == "300 dev images per task, no labels (budget=mini)"


@pytest.mark.parametrize("name", ["fisher", "regmean", "regmean_mlp"])
def test_one_expert_comes_back(name: str):
    alone = run(merge(name), EXPERTS[:1]).encoder
    for key, value in EXPERTS[0].weights.items():
        assert torch.allclose(alone[key], value, atol=1e-6)


@pytest.mark.parametrize(("name", "stage"), [("fisher", "fisher"), ("regmean", "moments")])
def test_statistics_of_an_expert_are_shared_by_all_its_merges(name: str, stage: str):
    stages = tiny.MemoryStages()
    first = run(merge(name), stages=stages)
    assert stages.made == [stage] * 3
    bad = Expert("a", tiny.random_experts(BASE, ("payload",))[0].weights, "bad")
    run(merge(name), [bad, *EXPERTS[1:]], stages=stages)
    assert stages.made == [stage] * 4
    again = run(merge(name), stages=stages)
    assert again.info == first.info
    assert tiny.equal(again.encoder, first.encoder)


# -- fisher


def test_entries_are_weighed_by_hand():
    values, weights = torch.tensor([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]]), torch.ones(2, 3)
    weights[0], weights[1, 2] = torch.tensor([3.0, 1.0, 0.0]), 0.0
    assert fisher.weighted_mean(values, weights).tolist() == [2.0, 4.0, 5.0]


numbers = st.lists(st.floats(0, 9), min_size=4, max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=4), st.floats(0.1, 9))
def test_fisher_invariants(table: list[list[float]], factor: float):
    weights = torch.tensor(table, dtype=torch.float64)
    values = torch.arange(weights.numel(), dtype=torch.float64).view(weights.shape)
    same = torch.full_like(weights, factor)
    assert torch.allclose(fisher.weighted_mean(values, same), values.mean(0))
    assert torch.allclose(fisher.weighted_mean(values, 0 * weights), values.mean(0))
    found = fisher.weighted_mean(values, weights)
    assert (found >= values[0] - 1e-9).all()
    assert (found <= values[-1] + 1e-9).all()
    assert torch.allclose(found, fisher.weighted_mean(values, factor * weights))
    row = weights[0]
    bigger = fisher.unit({"w": factor * row}) / fisher.unit({"w": row})
    assert bigger == pytest.approx(factor if row.any() else 1.0, rel=1e-6)


def test_the_size_of_one_tasks_fisher_matters_only_unless_it_is_normalised(monkeypatch):
    def merged(factor: float, normalise: bool) -> dict[str, Tensor]:
        real = fisher.Fisher.diagonal

        def scaled(self: Any, expert: Expert, ctx: Any) -> Any:
            found, told = real(self, expert, ctx)
            return {k: v * (factor if expert.task == "a" else 1) for k, v in found.items()}, told

        with monkeypatch.context() as patched:
            patched.setattr(fisher.Fisher, "diagonal", scaled)
            part = merge("fisher", estimator="batch", normalise=normalise, floor=1e-12)
            return dict(run(part).encoder)

    one, other = merged(1.0, True), merged(256.0, True)
    assert all(torch.allclose(other[key], value, atol=1e-7) for key, value in one.items())
    raw, more = merged(1.0, False), merged(256.0, False)
    assert not all(torch.allclose(more[key], value, atol=1e-4) for key, value in raw.items())


@pytest.mark.parametrize("normalise", [True, False])
def test_without_any_information_the_floor_leaves_the_average(monkeypatch, normalise: bool):
    nothing = {key: torch.zeros_like(value) for key, value in BASE.items()}
    spent = {"images": 8, "passes": 0.0}
    monkeypatch.setattr(fisher.Fisher, "diagonal", lambda *_: (nothing, spent))
    average = SimpleAverage()(BASE, EXPERTS, tiny.context()).encoder
    for floor in (1e-6, 0.0):
        found = run(merge("fisher", normalise=normalise, floor=floor)).encoder
        assert all(torch.allclose(found[key], value, atol=1e-7) for key, value in average.items())


def test_per_sample_is_the_expected_curvature():
    """E_y of minus the second derivative of log p: Fisher's other definition."""
    images, head = tiny.split("a", "dev")[0][:3], tiny.head("a")
    encoder, weights = tiny.encoder(), EXPERTS[0].weights
    found = fisher.fisher_diagonal(encoder, weights, head, images, None)
    assert passes_used(encoder) == 3 * len(head)
    name = "ln_post.bias"
    leaf = weights[name].clone().requires_grad_()
    curvature = torch.zeros_like(leaf)
    for image in images:
        log_p = logits(encoder({**weights, name: leaf}, image[None]), head).log_softmax(1)
        expected = (log_p.detach().exp() * log_p).sum()
        (slope,) = torch.autograd.grad(expected, leaf, create_graph=True)
        for i, one in enumerate(slope):
            curvature[i] -= torch.autograd.grad(one, leaf, retain_graph=True)[0][i] / 3
    assert torch.allclose(found[name].float(), curvature, rtol=1e-3, atol=1e-6)


def test_batch_is_the_squared_gradient_of_the_sum():
    images, head, encoder = tiny.split("a", "dev")[0][:5], tiny.head("a"), tiny.encoder()
    leaves = {key: value.clone().requires_grad_() for key, value in BASE.items()}
    sums = {key: torch.zeros_like(value) for key, value in BASE.items()}
    for some in (images[:3], images[3:]):
        p = logits(encoder(leaves, some), head).softmax(1)
        loss = (p.detach().sqrt() * p.log()).sum()
        for key, slope in zip(
            leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True
        ):
            sums[key] += slope**2 / 5
    before = passes_used(encoder)
    found = fisher.fisher_diagonal(encoder, BASE, head, images, 3)
    assert passes_used(encoder) - before == 5
    assert all(torch.allclose(found[k].float(), v, rtol=1e-3, atol=1e-8) for k, v in sums.items())


# -- regmean

G1, G2 = torch.tensor([[2.0, 1], [1, 2]]), torch.tensor([[1.0, 0], [0, 3]])
W1, W2 = torch.eye(2), torch.tensor([[0.0, 2], [4, 0]])


@pytest.mark.parametrize(
    ("a", "expected"),
    [
        (0.0, [[0.666667, 0.666667], [2.4, 0.4]]),
        (1.0, [[-0.214286, 0.928571], [2.642857, 0.214286]]),
    ],
)
def test_regmean_reference_vectors(a: float, expected: list[list[float]]):
    """spec/merges_defences.md 4.1; fusion-bench agrees."""
    found = regmean.regmean([W1, W2], [shrunk(G1, a), shrunk(G2, a)], 0.0)
    assert torch.allclose(found.float(), torch.tensor(expected), atol=1e-6)
    near = regmean.regmean([W1, W2], [shrunk(G1, a), shrunk(G2, a)], 1e-6)
    assert torch.allclose(near, found, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0.1, 100))
def test_regmean_invariants(seed: int, tasks: int, factor: float):
    rng = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(9, 3, generator=rng, dtype=torch.float64) for _ in range(tasks)]
    weights = [torch.randn(3, 2, generator=rng, dtype=torch.float64) for _ in range(tasks)]
    grams = [x.T @ x for x in inputs]
    found = regmean.regmean(weights, grams, 0.0)
    outputs = torch.cat([x @ w for x, w in zip(inputs, weights, strict=True)])
    assert torch.allclose(found, torch.linalg.lstsq(torch.cat(inputs), outputs).solution, atol=1e-6)
    scaled = [factor * gram for gram in grams]
    assert torch.allclose(regmean.regmean(weights, scaled, 0.0), found, atol=1e-6)
    average = torch.stack(weights).mean(0)
    assert torch.allclose(regmean.regmean(weights, grams[:1] * tasks, 1e-3), average, atol=1e-6)
    diagonal = [gram.diagonal().diag() for gram in grams]
    for a in (0.0, 0.4, 1.0):
        kept = regmean.regmean(weights, [shrunk(gram, a) for gram in diagonal], 0.0)
        by_hand = sum(g @ w for g, w in zip(diagonal, weights, strict=True)) / sum(
            gram.diagonal() for gram in diagonal
        ).unsqueeze(1)
        assert torch.allclose(kept, by_hand)


def test_directions_without_inputs_are_averaged():
    dead = torch.diag(torch.tensor([1.0, 0.0]))
    weights = [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [6.0]])]
    found = regmean.regmean(weights, [3 * dead, dead], 1e-6)
    assert found.flatten().tolist() == pytest.approx([1.5, 4.0], abs=1e-5)
    nothing = regmean.regmean(weights, [0 * dead, 0 * dead], 1e-6)
    assert nothing.flatten().tolist() == [2.0, 4.0]


def test_covered_layers_are_the_expected_ones():
    block = "transformer.resblocks.0."
    mlp = [f"{block}mlp.c_fc.weight", f"{block}mlp.c_proj.weight"]
    attention = [f"{block}attn.in_proj_weight", f"{block}attn.out_proj.weight"]
    assert regmean.covered(BASE, "mlp_only") == tuple(mlp)
    assert regmean.covered(BASE, "all_linear") == (*attention, *mlp)
    with pytest.raises(BenchError, match=r"merge\.cover=all_linear found no linear layer"):
        regmean.covered({"w": torch.zeros(2)}, "all_linear")


@pytest.mark.parametrize("cover", ["all_linear", "mlp_only"])
def test_regmean_is_nearest_to_the_experts_outputs_and_averages_the_rest(cover: Any):
    part = merge("regmean", cover=cover, off_diagonal=1.0, ridge=1e-9)
    ctx = tiny.context(part)
    found = part(BASE, EXPERTS, ctx).encoder
    layers = regmean.covered(BASE, cover)
    grams = []
    for one in EXPERTS:
        with recorded(ctx.encoder, one.weights) as moments:
            ctx.features(one.weights, ctx.images(one.task, part.needs[0]).images)
        grams.append(moments.means())
    for key in FLOATS:
        tau = [one.weights[key].double() - found[key].double() for one in EXPERTS]
        if key not in layers:
            assert torch.allclose(sum(tau), torch.zeros(()).double(), atol=1e-5), key
            continue
        mean = torch.stack(tau).mean(0)
        left, of_average = (
            sum((d - shift) @ gram[key] for d, gram in zip(tau, grams, strict=True)).norm()
            for shift in (0.0, mean)
        )
        assert left < 1e-3 * of_average, key
        assert mean.norm() > 1e-2, key


# -- adamerging


def test_entropies_are_the_reference_values():
    scores = torch.tensor([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    assert entropy(scores).tolist() == pytest.approx([1.098612, 0.000998749], abs=1e-6)


@pytest.mark.parametrize("name", ["adamerging_tw", "adamerging_lw"])
def test_without_steps_it_is_task_arithmetic(name: str):
    model = run(merge(name, passes=0))
    wanted = TaskArithmetic(scale=0.3)(BASE, EXPERTS, tiny.context()).encoder
    assert all(torch.allclose(model.encoder[k], v, atol=1e-7) for k, v in wanted.items())
    assert (model.info["steps"], model.info["passes"]) == (0, 0)
    plus = run(merge(f"{name}_pp", passes=0)).encoder
    assert not all(torch.allclose(plus[k], v, atol=1e-4) for k, v in wanted.items())


def test_equal_coefficients_per_tensor_are_one_per_task():
    vectors = adamerging.task_vectors(BASE, EXPERTS, None)
    scales = torch.tensor([0.1, 0.5, 0.9])
    found = adamerging.combined(BASE, vectors, scales[:, None].expand(-1, len(vectors)))
    for key, value in BASE.items():
        parts = [s * (one.weights[key] - value) for s, one in zip(scales, EXPERTS, strict=True)]
        assert torch.allclose(found[key], value + sum(parts), atol=1e-6)


def test_the_projection_is_the_gradient_by_the_coefficients():
    vectors = adamerging.task_vectors(BASE, EXPERTS, None)
    moving = torch.rand(3, len(vectors), generator=torch.Generator().manual_seed(0))
    moving.requires_grad_()
    images, head, encoder = tiny.split("a", "dev")[0][:4], tiny.head("a"), tiny.encoder()
    weights = adamerging.combined(BASE, vectors, moving)
    loss = entropy(logits(encoder(weights, images), head)).mean()
    (wanted,) = torch.autograd.grad(loss, moving)
    leaves = {key: value.detach().requires_grad_() for key, value in weights.items()}
    loss = entropy(logits(encoder(leaves, images), head)).mean()
    slopes = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    assert torch.allclose(adamerging.projected(vectors, slopes), wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["adamerging_tw", "adamerging_lw", "adamerging_lw_pp"])
def test_entropy_falls_on_a_fixed_batch_and_the_model_is_what_is_told(name: str):
    part = merge(name, batch=8, passes=24 * 12, lr=1e-3)
    model = run(part)
    heights = [value for _, value in model.info["entropy"]]
    assert model.info["steps"] == 12
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] < heights[0]
    vectors = adamerging.task_vectors(BASE, EXPERTS, part.density)
    told = model.info["coefficients"]
    rows = [
        list(told[task].values()) if part.per == "layer" else [told[task]] * len(vectors)
        for task in tiny.TASKS
    ]
    found = adamerging.combined(BASE, vectors, torch.tensor(rows))
    assert all(torch.allclose(model.encoder[k], v, atol=1e-6) for k, v in found.items())
    assert rows != [[0.3] * len(vectors)] * 3


def test_coefficients_stay_in_range_when_clamped():
    free = run(merge("adamerging_lw", start=1.0, lr=0.2, clamp=False)).info["coefficients"]
    held = run(merge("adamerging_lw", start=1.0, lr=0.2)).info["coefficients"]
    values = {which: [x for row in told.values() for x in row.values()] for which, told in
              (("free", free), ("held", held))}  # fmt: skip
    assert not all(0 <= x <= 1 for x in values["free"])
    assert all(0 <= x <= 1 for x in values["held"])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 200), st.integers(1, 9))
def test_passes_fix_the_steps_and_are_never_exceeded(passes: int, batch: int):
    part = merge("adamerging_tw", passes=passes, batch=batch)
    parts = {task: tiny.context(part).images(task, part.needs[0]) for task in tiny.TASKS}
    steps = part.steps(parts)
    price = 3 * min(batch, 8)
    assert steps * price <= passes < (steps + 1) * price


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from([0.2, 0.5, 1.0]))
def test_the_parts_of_plus_plus_sum_to_ties(seed: int, tasks: int, density: float):
    vectors = torch.randn(tasks, 10, generator=torch.Generator().manual_seed(seed)).double()
    found = adamerging.disjoint(vectors, density)
    assert torch.allclose(found.sum(0), ties(vectors, density, "sum"))
    assert ((found == 0) | (found == vectors)).all()


# -- surgery


def test_surgery_without_steps_is_the_merge():
    model = run(merge("surgery", steps=0))
    wanted = TaskArithmetic(scale=0.3)(BASE, EXPERTS, tiny.context())
    assert tiny.equal(model.encoder, wanted.encoder)
    features = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    for task in tiny.TASKS:
        head = tiny.head(task)
        scores = logits(features, behind(head, model.adapters[task]))
        assert torch.equal(scores, logits(features, head))
    assert all(before == after for before, after in model.info["distance"].values())


def test_adapters_of_a_merge_that_is_the_expert_stay_off():
    twin = merge("surgery", steps=20, inner={**option("merge", "task_arithmetic"), "scale": 1.0})
    model = run(twin, EXPERTS[:1])
    assert not model.adapters["a"]["up"].any()
    assert model.info["distance"]["a"] == [0.0, 0.0]


def test_adapters_bring_features_nearer_to_the_experts():
    model = run(merge("surgery", steps=150, lr=1e-2))
    assert model.encoder.keys() == BASE.keys()
    assert set(model.adapters) == set(tiny.TASKS)
    for before, after in model.info["distance"].values():
        assert after < 0.8 * before
    shapes = {name: tuple(value.shape) for name, value in model.adapters["b"].items()}
    assert shapes == {"down": (16, 16), "up": (16, 16)}


def test_surgery_is_put_on_any_merge_and_adds_to_what_it_sees_and_spends():
    inner = {**option("merge", "regmean"), "images": 6}
    part = merge("surgery", inner=inner)
    assert part.needs == (Grant("dev", False, 6), Grant("dev", False, 8))
    model = run(part)
    alone = build(inner, "merge")
    assert tiny.equal(model.encoder, run(alone).encoder)
    assert model.info["passes"] == pytest.approx((6 + 2 * 8) * 3 / 3)
    twice = [EXPERTS[0], EXPERTS[0]]
    assert "task 'a' has several experts" in part.accepts(twice)
    assert isinstance(part, Surgery)


def test_no_merge_follows_one_that_leaves_adapters():
    surgery = option("merge", "surgery") | {"images": 3}
    modified = build(option("merge", "lines") | {"inner": surgery}, "merge")
    reason = modified.accepts(tiny.random_experts(tiny.base()))
    assert reason == "merge.inner leaves per-task adapters, which LiNeS cannot scale"
