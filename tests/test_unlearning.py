"""Adversarial unlearning: the mathematics of each, whose labels it takes, what it costs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from baselines.merging.task_arithmetic import TaskArithmetic
from benchmark.algebra import task_vector
from benchmark.components import build, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.optimisation.descent import Schedule, descend
from benchmark.optimisation.implicit import hypergradient
from benchmark.optimisation.labelled import draw
from benchmark.optimisation.masks import masked, median_mask, sampled_mask
from benchmark.optimisation.shared_risk import entropy, jensen_shannon, shared, shared_risk
from benchmark.optimisation.tuning import relabelled
from benchmark.optimisation.unlabelled import freeze
from benchmark.selection import dev_parts, mean_accuracy, passes_used
from benchmark.types import Grant, Model
from tests import tiny

BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGE = TaskArithmetic(scale=0.3)
MERGED = MERGE(BASE, EXPERTS, tiny.context()).encoder
ROLE = ("defense", "tested")
TOY: dict[str, dict[str, Any]] = {
    "sau": {"ascent_steps": 2},
    "i_bau": {"rounds": 2, "ascent_steps": 2, "terms": 3},
    "awm_mask": {"lr": 0.1},
    "sau_mask": {"lr": 0.1},
    "prompt_unlearning": {"first_steps": 3, "ascent_steps": 1},
}
LABELLED = ["sau", "i_bau"]
MASKS = ["awm_mask", "sau_mask"]
UNLABELLED = ["sau_pseudo", "i_bau_pseudo", *MASKS, "prompt_unlearning"]
EVERY = [*LABELLED, *UNLABELLED]


def defense(name: str, **values: Any) -> Any:
    toy = TOY[name.removesuffix("_pseudo")]
    shared_values = {"lr": 1e-3, "batch": 4, "checks": 2, "images": 24, "passes": 400}
    return build({**option("defense", name), **shared_values, **toy, **values}, "defense")


def context(part: Any, **settings: Any) -> Any:
    return tiny.context(part, role=ROLE, **settings)


def run(part: Any, ctx: Any = None) -> Model:
    return part(tiny.merge_of(Model(MERGED)), BASE, EXPERTS, ctx or context(part))


def told(model: Model) -> list[list[float]]:
    return next(model.info[name] for name in ("accuracy", "agreement") if name in model.info)


def close(first: Any, second: Any, atol: float) -> bool:
    return all(torch.allclose(first[name], value, atol=atol) for name, value in second.items())


# -- implicit gradient


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_the_hypergradient_of_a_quadratic_is_exact(seed: int):
    """Inner x'Ax/2 - x'Bw, so x* = A⁻¹Bw; outer |x-c|²/2 + |w|²/2."""
    rng = torch.Generator().manual_seed(seed)
    raw, b = (torch.randn(4, n, generator=rng, dtype=torch.float64) for n in (4, 3))
    a = raw @ raw.T / 4 + torch.eye(4, dtype=torch.float64)
    c, w = (torch.randn(n, generator=rng, dtype=torch.float64) for n in (4, 3))
    solution = torch.linalg.solve(a, b @ w)
    exact = w + torch.linalg.solve(a, b).T @ (solution - c)
    w = w.requires_grad_()
    step = 1 / float(torch.linalg.matrix_norm(a, 2))

    def found(terms: int) -> torch.Tensor:
        (gradient,) = hypergradient(
            lambda x: x @ a @ x / 2 - x @ (b @ w),
            lambda x: (x - c).square().sum() / 2 + w.square().sum() / 2,
            solution,
            [w],
            step,
            terms,
        )
        return gradient

    assert torch.allclose(found(300), exact, atol=1e-6)
    one = w.detach() + step * b.T @ (solution - c)
    assert torch.allclose(found(1), one, atol=1e-10)


def test_an_implicit_gradient_without_terms_is_refused():
    w = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="at least 1"):
        hypergradient(lambda x: (x * w).sum(), lambda x: (x * w).sum(), w, [w], 0.1, 0)


# -- shared adversarial risk


def scores_of(probabilities: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 100))
def test_jensen_shannon_is_a_bounded_symmetric_divergence(seed: int, scale: float):
    rng = torch.Generator().manual_seed(seed)
    one, two = (scale * torch.randn(5, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    there, back = jensen_shannon(one, two), jensen_shannon(two, one)
    assert torch.allclose(there, back, atol=1e-12)
    assert (there >= -1e-12).all()
    assert (there <= math.log(2) + 1e-12).all()
    assert jensen_shannon(one, one + 3).abs().max() < 1e-12
    p, q = one.softmax(1), two.softmax(1)
    by_definition = entropy(((p + q) / 2).log()) - (entropy(one) + entropy(two)) / 2
    assert torch.allclose(there, by_definition, atol=1e-9)


def test_jensen_shannon_reaches_ln_2_where_nothing_overlaps():
    far = torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]])
    assert jensen_shannon(*far).item() == pytest.approx(math.log(2))


def test_entropy_by_hand():
    found = entropy(torch.tensor([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]]))
    assert found.tolist() == pytest.approx([1.098612, 0.000998749], rel=1e-5)


def test_shared_risk_by_hand():
    """Four images of a head of three classes; only the first two are potentially poisoned."""
    model = scores_of([[0.5, 0.4, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]])
    reference = scores_of([[0.1, 0.8, 0.1], [0.2, 0.6, 0.2], [0.1, 0.8, 0.1], [0.9, 0.05, 0.05]])
    labels, clean = torch.tensor([0, 2, 0, 0]), torch.tensor([0, 2, 1, 0])
    found = shared_risk(model, reference, labels, clean)
    # y~ = 1, 1, (1 is the clean prediction), (0 is the label)
    assert found.item() == pytest.approx(-(math.log(0.6) + math.log(0.3)) / 4)
    assert shared(model, labels, reference, labels).tolist() == [False, True, True, False]
    fooled_otherwise = shared(model, labels, reference, torch.tensor([0, 1, 0, 0]))
    assert fooled_otherwise.tolist() == [False, False, True, False]


def test_shared_risk_is_finite_with_a_bounded_slope_when_the_model_is_sure():
    scores = torch.tensor([[300.0, 0.0]], requires_grad=True)
    reference = torch.tensor([[1.0, 0.0]])
    risk = shared_risk(scores, reference, torch.tensor([1]), torch.tensor([1]))
    assert risk.item() == pytest.approx(300)
    (slope,) = torch.autograd.grad(risk, scores)
    assert slope.tolist() == [[1.0, -1.0]]
    none = shared_risk(scores, reference, torch.tensor([0]), torch.tensor([1]))
    assert none.item() == 0


# -- the kept point


@pytest.mark.parametrize(
    ("curve", "slack", "start_counts", "kept"),
    [
        ([0.5, 0.7, 0.6, 0.65], 0.0, True, 1),
        ([0.5, 0.7, 0.6, 0.65], 0.06, True, 3),
        ([1.0, 0.9, 0.85, 0.8], 0.15, True, 2),
        ([1.0, 0.8, 0.7, 0.6], 0.15, True, 0),
        ([1.0, 0.8, 0.7, 0.6], 0.15, False, 2),
        ([1.0, 0.5, 0.6, 0.7], 0.0, False, 3),
        ([0.7, 0.5, 0.7, 0.5], 0.0, True, 2),
        ([0.5, 0.45, 0.9, 0.7], 0.1, True, 2),
    ],
)
def test_the_latest_point_within_the_slack_of_the_best_is_kept(
    curve: list[float], slack: float, start_counts: bool, kept: int
):
    values = iter(curve)
    points: list[float] = []

    def judge(point: Any) -> float:
        points.append(float(point["x"]))
        return next(values)

    def differentiate(moving: Any, step: int) -> None:
        moving["x"].grad = torch.ones(1)

    found, told = descend(
        {"x": torch.zeros(1)},
        Schedule(lr=0.1, weight_decay=0.0, warmup=0.0, steps=3, checks=3),
        differentiate,
        judge,
        slack,
        start_counts,
        lambda done, total: None,
    )
    assert [step for step, _ in told] == [0, 1, 2, 3]
    assert float(found["x"]) == points[kept]
    assert not found["x"].requires_grad


# -- sau


def test_sau_with_bound_zero_is_fine_tuning():
    """No perturbation, so no class that only a perturbation brings: L_sar is 0."""
    values = {"supervision": "labels", "lr": 1e-3, "weight_decay": 0.1, "checks": 1}
    steps = 4
    tuned = {"batch": 4, "images": 24, "passes": 16 + 12 * steps, "label_smoothing": 0.0}
    ft = build({**option("defense", "ft"), **tuned, **values}, "defense")
    price = 12 * (2 * 2 + 2 + 2 / 3)  # inner: 2 steps of 2 models; outer: see the component
    sau = defense("sau", bound=0.0, passes=16 + math.ceil(price * steps), **values)
    plain, other = run(ft), run(sau)
    assert plain.info["steps"] == other.info["steps"] == steps
    assert told(plain) == told(other)
    assert not tiny.equal(plain.encoder, MERGED)
    # Adam divides a gradient by its own size, and with it the rounding of another order of sums.
    near = [torch.isclose(other.encoder[n], v, atol=1e-5) for n, v in plain.encoder.items()]
    assert sum(int(one.sum()) for one in near) > 0.995 * sum(one.numel() for one in near)


def test_the_gradient_of_sau_with_bound_zero_is_that_of_the_cross_entropy():
    part = defense("sau", bound=0.0)
    ctx = context(part)
    train, _ = dev_parts(ctx, tiny.TASKS, part.needs[0])
    weights, other = (
        {name: value.clone().requires_grad_() for name, value in MERGED.items()} for _ in range(2)
    )
    part._differentiate(MERGED, train, ctx)(weights, 0)
    batch = sau_batch(part, ctx)
    batch.cross_entropy(ctx.encoder(other, batch.images)).backward()
    assert close(
        {n: v.grad for n, v in weights.items()}, {n: v.grad for n, v in other.items()}, 1e-6
    )


def sau_batch(part: Any, ctx: Any) -> Any:
    train, _ = dev_parts(ctx, tiny.TASKS, part.needs[0])
    return draw(ctx, train, 4, {task: ctx.rng("batches", task) for task in tiny.TASKS})


@pytest.mark.parametrize("square", [None, 5])
def test_perturbations_are_bounded_valid_and_where_they_may_be(square: int | None):
    part = defense("sau", square=square, bound=0.3, ascent_lr=0.1, ascent_steps=4)
    ctx = context(part)
    batch = sau_batch(part, ctx)
    bad = part.perturbed(MERGED, MERGED, batch, ctx, ctx.rng("squares"))
    assert ((bad >= 0) & (bad <= 1)).all()
    change = bad - batch.images
    assert change.abs().max() <= 0.3 + 1e-6
    touched = (change.abs().amax(1) > 0).flatten(1).sum(1)
    assert (touched <= (25 if square else 256)).all()
    assert (touched > 0).all()
    assert not bad.requires_grad


def test_perturbations_raise_the_risk_that_two_models_share():
    part = defense("sau", ascent_steps=5, ascent_lr=0.05, adversarial_weight=1.0)
    ctx = context(part)
    batch = sau_batch(part, ctx)
    bad = part.perturbed(MERGED, MERGED, batch, ctx, ctx.rng("squares"))
    with torch.no_grad():
        before, after = (
            float(batch.cross_entropy(ctx.encoder(MERGED, x))) for x in (batch.images, bad)
        )
    assert after > before + 0.1


def test_shared_images_stay_where_they_are():
    """With the labels of another class everywhere, both models are fooled alike from the start."""
    part = defense("sau", bound=0.01, ascent_lr=0.01)
    ctx = context(part)
    batch = sau_batch(part, ctx)
    with torch.no_grad():
        shown = (batch.images + 0.01).clamp(0, 1)
        found = [scores.argmax(1) for scores in batch.scores(ctx.encoder(MERGED, shown))]
    wrong = type(batch)(batch.images, tuple((f + 1) % 4 for f in found), batch.heads)
    assert torch.equal(part.perturbed(MERGED, MERGED, wrong, ctx, ctx.rng("squares")), shown)


# -- i_bau


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"perturbed": 0}, "greater than or equal to 1"),
        ({"terms": 0}, "greater than or equal to 1"),
        ({"perturbed": 5}, "perturbed=5 is more than batch=4"),
    ],
)
def test_i_bau_without_perturbation_or_terms_is_refused(bad: dict[str, int], sentence: str):
    with pytest.raises(BenchError, match=sentence):
        defense("i_bau", **bad)


def test_the_universal_perturbation_is_per_task_and_on_the_first_images_only():
    part = defense("i_bau", perturbed=2)
    ctx = context(part)
    batch = sau_batch(part, ctx)
    change = torch.zeros(3, 3, tiny.SIDE, tiny.SIDE)
    change[1] = 0.5
    shown = batch.images.clone()
    shown[4:6] = (shown[4:6] + 0.5).clamp(0, 1)
    with torch.no_grad():
        expected = batch.cross_entropy(ctx.encoder(MERGED, shown))
        assert torch.allclose(part.outer_loss(MERGED, change, batch, ctx), expected)
        all_of_b = batch.images.clone()
        all_of_b[4:8] = (all_of_b[4:8] + 0.5).clamp(0, 1)
        price = part.norm_weight * change.square().sum()
        expected = price - 3 * batch.cross_entropy(ctx.encoder(MERGED, all_of_b))
        assert torch.allclose(part.inner_loss(MERGED, change, batch, ctx), expected)


def test_the_inner_ascent_goes_uphill_and_stays_in_the_ball():
    part = defense("i_bau", ascent_lr=0.1, radius=1e6, norm_weight=0.0)
    ctx = context(part)
    batch, still = sau_batch(part, ctx), torch.zeros(3, 3, tiny.SIDE, tiny.SIDE)

    def lost(change: torch.Tensor) -> float:
        with torch.no_grad():
            return -float(part.inner_loss(MERGED, change, batch, ctx))

    free = part._ascended(still, MERGED, batch, ctx)
    assert lost(free) > lost(still)
    lengths = free.flatten(1).norm(dim=1)
    assert (lengths > 0).all()
    bound = float(lengths.median())
    held = replace(part, radius=bound)._ascended(still, MERGED, batch, ctx)
    expected = torch.minimum(lengths, torch.tensor(bound))
    assert torch.allclose(held.flatten(1).norm(dim=1), expected)
    assert torch.allclose(held / expected.view(-1, 1, 1, 1), free / lengths.view(-1, 1, 1, 1))


def test_the_hypergradient_reaches_every_weight_and_differs_from_the_plain_one():
    part = defense("i_bau", map_step=0.1)
    ctx = context(part)
    batch = sau_batch(part, ctx)
    change = torch.full((3, 3, tiny.SIDE, tiny.SIDE), 0.1)
    weights = {name: value.clone().requires_grad_() for name, value in MERGED.items()}
    part.outer_loss(weights, change, batch, ctx).backward()
    plain = {name: value.grad.clone() for name, value in weights.items()}
    part._leave_gradient(weights, change, batch, ctx)
    assert all(float(value.grad.abs().max()) > 0 for value in weights.values())
    assert not close(plain, {name: value.grad for name, value in weights.items()}, 1e-4)


# -- masks


@given(st.floats(-5, 5), st.floats(0.1, 3))
def test_equal_logits_are_a_mask_of_ones(logit: float, temperature: float):
    vector = task_vector(MERGED, BASE)
    logits = {name: torch.full_like(value.float(), logit) for name, value in vector.items()}
    mask = median_mask(logits, temperature)
    assert close(masked(BASE, vector, mask), MERGED, 1e-6)
    assert all(value.shape == vector[name].shape for name, value in mask.items())


def test_a_mask_by_hand():
    """sigmoid(+-ln 3) is 3/4 and 1/4: divided by their mean 1/2 they are 3/2 and 1/2."""
    half = math.log(3) / 2
    mask = median_mask({"w": torch.tensor([half, -half])}, 0.5)
    assert mask["w"].tolist() == pytest.approx([1.5, 0.5])
    base = {"w": torch.tensor([1.0, 1.0]), "count": torch.tensor(7)}
    found = masked(base, {"w": torch.tensor([2.0, 2.0])}, mask)
    assert found["w"].tolist() == pytest.approx([4.0, 2.0])
    assert found["count"] is base["count"]


def test_sampled_masks_have_mean_one_and_repeat_by_their_generator():
    logits = {"w": torch.zeros(200, 100)}

    def drawn(seed: int) -> torch.Tensor:
        return sampled_mask(logits, 0.5, torch.Generator().manual_seed(seed))["w"]

    assert drawn(0).mean().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    # sigmoid(L / 0.5) with L logistic: half of the draws are below 1/2, which is the mean.
    assert (drawn(0) < 1).float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("name", MASKS)
def test_masks_stay_between_base_and_twice_the_task_vector(name: str):
    model = run(defense(name, lr=1.0, slack=1.0, passes=1500))
    vector = task_vector(MERGED, BASE)
    for key, value in task_vector(model.encoder, BASE).items():
        factor = value / vector[key]
        real = vector[key].abs() > 1e-4
        assert (factor[real] > -1e-3).all()
        assert factor[real].min() < 0.9


def mask_parts(name: str) -> tuple[Any, Any, Any]:
    part = defense(name)
    ctx = context(part)
    train, _ = dev_parts(ctx, tiny.TASKS, part.needs[0])
    train = relabelled(ctx, MERGED, train)
    return part, ctx, draw(ctx, train, 4, {task: ctx.rng("b", task) for task in tiny.TASKS})


def test_the_masks_ascent_is_on_the_cross_entropy_of_its_own_predictions():
    part, ctx, batch = mask_parts("awm_mask")
    change = torch.zeros(3, 3, tiny.SIDE, tiny.SIDE)
    found = part.ascent_gradient(change, MERGED, MERGED, batch, ctx)
    moving = change.clone().requires_grad_()
    shown = (batch.images + moving[batch.owners]).clamp(0, 1)
    (by_hand,) = torch.autograd.grad(3 * batch.cross_entropy(ctx.encoder(MERGED, shown)), moving)
    assert torch.allclose(found, by_hand, atol=1e-5)


def test_the_masks_loss_is_the_sum_of_its_terms():
    change = torch.full((3, 3, tiny.SIDE, tiny.SIDE), 0.2)
    part, ctx, batch = mask_parts("sau_mask")
    with torch.no_grad():
        loss = part.loss(change, BASE, MERGED, batch, ctx)
        shown = (batch.images + 0.2).clamp(0, 1)
        rows = zip(
            *(batch.scores(ctx.encoder(w, x)) for w, x in
              ((BASE, batch.images), (BASE, shown), (MERGED, shown))),
            batch.labels,
            strict=True,
        )  # fmt: skip
        terms = [
            entropy(clean).mean()
            + 0.01 * entropy(moved).mean()
            + 0.01 * shared_risk(moved, theirs, clean.argmax(1), word)
            for clean, moved, theirs, word in rows
        ]
    assert loss.item() == pytest.approx(sum(float(term) for term in terms) / 3, rel=1e-5)


# -- prompt_unlearning


def test_without_prompts_that_move_the_gradient_is_of_pseudo_labels_and_clean_kl():
    """Prompts that are added and never leave 0; away from the merge, where the KL has a slope."""
    still = {**option("defense", "prompt_unlearning")["prompts"], "patches": 0, "fulls": 1}
    still |= {"start": 0.0, "lr": 1e-9}
    part = defense(
        "prompt_unlearning", prompts=still, first_steps=0, ascent_steps=0, clean_weight=0.7
    )
    ctx = context(part)
    train, _ = dev_parts(ctx, tiny.TASKS, part.needs[0])
    data = freeze(ctx, MERGED, train)
    weights, other = (
        {name: value.clone().requires_grad_() for name, value in BASE.items()} for _ in range(2)
    )
    part._differentiate(MERGED, data, ctx)(weights, 0)
    batch = data.draw(4, ctx.rng("batch", 0))
    losses = []
    found = batch.logits(ctx.encoder(other, batch.images))
    for scores, labels, frozen in zip(found, batch.labels, batch.log_probs, strict=True):
        kl = (frozen.exp() * (frozen - scores.log_softmax(1))).sum(1).mean()
        assert kl > 1e-4
        losses.append(cross_entropy(scores, labels) + 0.7 * kl)
    torch.stack(losses).mean().backward()
    slopes, by_hand = ({n: v.grad for n, v in each.items()} for each in (weights, other))
    assert close(slopes, by_hand, 1e-4)


# -- all


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_mutated_runs_repeat_and_something_is_learnt(name: str):
    part = defense(name)
    before = tiny.copied(MERGED)
    first, second = run(part), run(part)
    assert tiny.equal(first.encoder, second.encoder)
    assert first.info == second.info
    assert tiny.equal(MERGED, before)
    assert first.info["steps"] > 0
    assert not any(value.requires_grad for value in first.encoder.values())
    assert first.encoder.keys() == BASE.keys()
    wild = run(defense(name, lr=0.02, slack=1.0))
    assert not close(wild.encoder, MERGED, 1e-4)
    if name in UNLABELLED:
        assert not tiny.equal(first.encoder, MERGED)
    assert part.place == "after"
    assert part.accepts(MERGE) is None


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(EVERY), st.integers(0, 900), st.integers(3, 48))
def test_the_budget_is_never_exceeded_and_told_exactly(name: str, passes: int, images: int):
    part = defense(name, passes=passes, images=images)
    ctx = context(part)
    model = run(part, ctx)
    assert passes_used(ctx.encoder) == pytest.approx(model.info["passes"])
    assert passes_used(ctx.encoder) <= passes + 1e-6
    assert model.info["images"] <= images * len(tiny.TASKS)
    if model.info["steps"] == 0:
        assert tiny.equal(model.encoder, MERGED)
        assert passes_used(ctx.encoder) == 0


@pytest.mark.parametrize("name", EVERY)
def test_the_criterion_is_the_methods_own(name: str):
    part = defense(name)
    ctx = context(part)
    labelled = name in LABELLED
    (grant,) = part.needs
    assert grant == Grant("dev", labels=labelled, per_task=24)
    model = run(part, ctx)
    assert ("accuracy" in model.info) == labelled
    assert model.info["labels"] == (model.info["images"] if labelled else 0)
    if labelled:
        _, select = dev_parts(ctx, tiny.TASKS, grant)
        assert told(model)[0] == [0, mean_accuracy(ctx, MERGED, select)]
    else:
        assert told(model)[0] == [0, 1.0]


@pytest.mark.parametrize("name", UNLABELLED)
def test_unlabelled_methods_never_get_labels(name: str):
    part = defense(name)
    ctx = context(part)
    with pytest.raises(AccessDenied):
        ctx.images("a", Grant("dev", labels=True, per_task=24))

    def scrambled(task: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = tiny.split(task, split, 48)
        return images, 3 - labels

    first, second = run(part, ctx), run(part, context(part).narrowed(_split=scrambled))
    assert tiny.equal(first.encoder, second.encoder)
    assert first.info == second.info


@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_refused_to_who_did_not_declare_them(name: str):
    part = defense(name)
    with pytest.raises(AccessDenied):
        run(part, context(part, granted=(Grant("dev", labels=False, per_task=24),)))


def test_a_joint_batch_is_split_by_task_and_never_repeats_an_image():
    part = defense("sau")
    ctx = context(part)
    train, _ = dev_parts(ctx, tiny.TASKS, part.needs[0])
    batch = draw(ctx, train, 100, {task: ctx.rng("x", task) for task in tiny.TASKS})
    assert batch.sizes == [16, 16, 16]
    assert batch.owners.tolist() == [0] * 16 + [1] * 16 + [2] * 16
    with torch.no_grad():
        features = ctx.encoder(MERGED, batch.images)
        for place, task in enumerate(tiny.TASKS):
            mine = batch.images[16 * place : 16 * (place + 1)]
            assert len(mine.flatten(1).unique(dim=0)) == 16
            scores = batch.scores(features)[place]
            alone = tiny.head(task)
            unit = torch.nn.functional.normalize(ctx.encoder(MERGED, mine), dim=1)
            assert torch.allclose(scores, unit @ alone.T, atol=1e-4)
        by_hand = sum(
            float(cross_entropy(s, y))
            for s, y in zip(batch.scores(features), batch.labels, strict=True)
        )
        assert float(batch.cross_entropy(features)) == pytest.approx(by_hand / 3, rel=1e-5)
