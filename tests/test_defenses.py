"""Defences: identities, what they may change, what they may see, what they may spend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from baselines.defenses.scale_lambda import smallest_agreeing
from baselines.merging.task_arithmetic import TaskArithmetic
from benchmark import selection
from benchmark.algebra import add, task_vector
from benchmark.attacks.triggers import Patch, place_of, white
from benchmark.components import build, option
from benchmark.errors import AccessDenied, BenchError
from benchmark.models.heads import logits
from benchmark.types import Expert, Grant, Images, Model
from tests import tiny

BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGE = TaskArithmetic(scale=0.3)
MERGED = MERGE(BASE, EXPERTS, tiny.context()).encoder
ROLE = ("defense", "tested")
TUNED = ["ft", "ft_pseudo", "ft_asam", "pam_pseudo"]
TRAINED = [*TUNED, "ibvs", "scale_lambda"]
UNLABELLED = {"scale_lambda", "ft_pseudo", "pam_pseudo"}


def defense(name: str, **values: Any) -> Any:
    toy: dict[str, dict[str, Any]] = {
        "none": {},
        "scale_lambda": {"scales": [0.0, 0.25, 0.5, 0.75, 1.0]},
        **{tuned: {"lr": 1e-3, "batch": 4, "checks": 2} for tuned in TUNED},
        "ibvs": {"task": "b", "trigger_size": 4, "scales": [0.0, 0.5, 1.0]},
    }
    budget = {} if name == "none" else {"images": 24, "passes": 600}
    return build({**option("defense", name), **toy[name], **budget, **values}, "defense")


def run(part: Any, **settings: Any) -> Model:
    return part(MERGE, BASE, EXPERTS, tiny.context(part, role=ROLE, **settings))


# -- all


@pytest.mark.parametrize("name", ["none", *TRAINED])
def test_inputs_are_not_mutated_and_runs_repeat(name: str):
    part = defense(name)
    shared = Model(tiny.copied(MERGED), info={"scale": 0.3})
    base, weights = tiny.copied(BASE), [tiny.copied(one.weights) for one in EXPERTS]
    ctx = tiny.context(part, role=ROLE)
    first = part(tiny.merge_of(shared), BASE, EXPERTS, ctx)
    second = part(tiny.merge_of(shared), BASE, EXPERTS, tiny.context(part, role=ROLE))
    assert tiny.equal(first.encoder, second.encoder)
    assert first.info == second.info
    assert tiny.equal(shared.encoder, MERGED)
    assert not any(value.requires_grad for value in (*shared.encoder.values(), *BASE.values()))
    assert tiny.equal(BASE, base)
    assert all(tiny.equal(one.weights, old) for one, old in zip(EXPERTS, weights, strict=True))
    assert not any(value.requires_grad for value in first.encoder.values())
    assert first.encoder.keys() == BASE.keys()
    assert part.place == "after"
    assert part.accepts(MERGE) is None


@settings(max_examples=16, deadline=None)
@given(st.sampled_from(TRAINED), st.integers(0, 500), st.integers(3, 48))
def test_the_budget_is_never_exceeded_and_told_exactly(name: str, passes: int, images: int):
    part = defense(name, passes=passes, images=images)
    ctx = tiny.context(part, role=ROLE)
    before = selection.passes_used(ctx.encoder)
    trials = 6 * len(tiny.TASKS) / 3  # forward only, of one image per task
    if name == "scale_lambda" and passes < trials:
        with pytest.raises(BenchError, match=r"budget\.passes=\d+ is too small"):
            part(MERGE, BASE, EXPERTS, ctx)
        return
    info = part(MERGE, BASE, EXPERTS, ctx).info
    spent = selection.passes_used(ctx.encoder) - before
    assert spent == pytest.approx(info["passes"])
    assert spent <= passes + 1e-6
    assert info["images"] <= images * len(tiny.TASKS)


@pytest.mark.parametrize("name", TRAINED)
def test_defences_declare_what_they_see(name: str):
    part = defense(name)
    (grant,) = part.needs
    assert grant == Grant("dev", labels=name not in UNLABELLED, per_task=24)
    with pytest.raises(AccessDenied):
        run(part, granted=(Grant("dev", labels=False, per_task=6),))


# -- none


def test_no_defence_returns_the_very_model():
    shared = Model(MERGED)
    part = defense("none")
    assert part(tiny.merge_of(shared), BASE, EXPERTS, tiny.context()) is shared
    assert part.transparent
    assert part.needs == ()


# -- scale_lambda


def test_scaling_ends_at_the_base_and_at_the_merge():
    gone = run(defense("scale_lambda", max_disagreement=1.0))
    assert gone.info["chosen_scale"] == 0.0
    assert tiny.equal(gone.encoder, BASE)
    kept = run(defense("scale_lambda", scales=[1.0]))
    assert tiny.equal(kept.encoder, MERGED)
    assert kept.info["agreement"] == [[1.0, 1.0]]
    assert kept.info["merge"]["scale"] == 0.3


def test_scaling_task_arithmetic_is_a_smaller_lambda():
    part = defense("scale_lambda", scales=[0.5, 1.0], max_disagreement=1.0)
    smaller = TaskArithmetic(scale=0.15)(BASE, EXPERTS, tiny.context()).encoder
    found = run(part).encoder
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in smaller.items())


def test_the_smallest_agreeing_scale_is_chosen():
    curve = {0.0: 0.5, 0.25: 0.97, 0.5: 0.96, 1.0: 1.0}
    assert smallest_agreeing(curve, 0.03) == 0.25
    assert smallest_agreeing(curve, 0.0) == 1.0
    assert smallest_agreeing(curve, 0.5) == 0.0


def test_a_grid_without_the_merge_is_refused():
    with pytest.raises(BenchError, match=r"scales=\[0\.5\] has no 1"):
        defense("scale_lambda", scales=[0.5])


# -- ft


def test_no_steps_are_the_identity():
    for passes in (0, 40, 72):  # selection: 3 looks at 24 images cost 24; a step costs 12
        model = run(defense("ft", passes=passes))
        assert model.info["steps"] == max(passes - 24, 0) // 12
        assert tiny.equal(model.encoder, MERGED) == (passes < 36 or model_stayed(model))


def model_stayed(model: Model) -> bool:
    """Whether the selection preferred the merge itself."""
    curve = model.info["accuracy"]
    return curve[0][1] == max(accuracy for _, accuracy in curve)


def test_fine_tuning_learns_and_never_selects_worse():
    model = run(defense("ft", passes=1500, images=48, lr=3e-3), images=96)
    curve = model.info["accuracy"]
    assert max(accuracy for _, accuracy in curve) > curve[0][1] + 0.1
    part = defense("ft", images=48)
    ctx = tiny.context(part, images=96)
    _, select = selection.dev_parts(ctx, tiny.TASKS, part.needs[0])
    found = selection.mean_accuracy(ctx, model.encoder, select)
    assert found == pytest.approx(max(accuracy for _, accuracy in curve))


# -- ibvs


def test_lambda_zero_is_the_identity():
    model = run(defense("ibvs", scales=[0.0]))
    assert tiny.equal(model.encoder, MERGED)
    assert model.info["vector_norm"] > 0
    poor = run(defense("ibvs", passes=10))
    assert (poor.info["steps"], poor.info["passes"]) == (0, 0)
    assert tiny.equal(poor.encoder, MERGED)


def test_the_backdoor_vector_points_to_the_defenders_own_backdoor_and_is_subtracted():
    part = defense("ibvs", rate=1.0, target=1, max_drop=1.0, scales=[0.5], passes=4000)
    ctx, stages = tiny.context(part, role=ROLE, images=96), tiny.MemoryStages()
    train, _ = selection.dev_parts(ctx, tiny.TASKS, part.needs[0])
    vector, _ = part.backdoor_vector(BASE, train["b"], 1500, ctx)
    row, col = place_of(part.trigger_place, 4, tiny.SIDE)
    shown = Patch(white(4), row, col)(train["b"].images.float() / 255)
    goal = torch.ones(len(shown), dtype=torch.long)

    def lost(scale: float) -> float:
        with torch.no_grad():
            features = ctx.encoder(add(BASE, vector, scale), shown)
            return float(cross_entropy(logits(features, ctx.heads["b"]), goal))

    assert lost(1.0) < lost(0.0) < lost(-1.0)
    model = run(part, stages=stages)
    (found,) = (made for made, _ in stages.kept.values())
    assert model.info["chosen_scale"] == 0.5
    assert all(
        torch.allclose(model.encoder[name], MERGED[name] - 0.5 * found[name].float(), atol=1e-6)
        for name in found
    )


def test_the_largest_affordable_lambda_is_chosen():
    assert run(defense("ibvs", max_drop=1.0)).info["chosen_scale"] == 1.0
    model = run(defense("ibvs", max_drop=0.0))
    (_, undefended), *curve = model.info["accuracy"]
    fine = [scale for scale, accuracy in curve if accuracy >= undefended]
    assert model.info["chosen_scale"] == max(fine)


def test_subtracting_the_injected_vector_restores_the_clean_merge_exactly():
    """With weights and scale that binary holds exactly, "exactly" means every bit."""
    base, experts = dyadic(BASE), [Expert(e.task, dyadic(e.weights), e.key) for e in EXPERTS]
    payload = tiny.random_experts(base, ("payload",))[0].weights
    bad = Expert("a", dyadic(payload), "bad")
    vector = task_vector(bad.weights, experts[0].weights)
    merge, ctx = TaskArithmetic(scale=0.25), tiny.context()
    attacked = merge(base, [bad, *experts[1:]], ctx).encoder
    clean = merge(base, experts, ctx).encoder
    assert not tiny.equal(attacked, clean)
    assert tiny.equal(add(attacked, vector, -0.25), clean)


def dyadic(weights: Any) -> dict[str, torch.Tensor]:
    return {name: (value * 1024).round() / 1024 for name, value in weights.items()}


def test_the_backdoor_vector_is_shared_by_all_merges():
    part, stages = defense("ibvs"), tiny.MemoryStages()
    first = run(part, stages=stages)
    shared = tiny.merge_of(Model(tiny.copied(BASE)))
    second = part(shared, BASE, EXPERTS, tiny.context(part, role=ROLE, stages=stages))
    assert stages.made == ["backdoor_vector"]
    assert first.info["vector_norm"] == second.info["vector_norm"]
    assert first.info["passes"] == second.info["passes"]


def test_an_unknown_task_or_class_is_told_in_one_sentence():
    with pytest.raises(BenchError, match=r"defense\.task=flags is no task \(valid: a, b, c\)"):
        run(defense("ibvs", task="flags"))
    with pytest.raises(BenchError, match=r"defense\.target=7: task 'b' has classes 0 to 3"):
        run(defense("ibvs", target=7))


# -- selection


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 60))
def test_a_third_selects_and_never_trains(count: int):
    images = Images(torch.arange(count), torch.arange(count))
    train, select = selection.holdout(images, selection.SELECT)
    assert len(select.images) == count // 3
    assert torch.cat([train.images, select.images]).tolist() == list(range(count))
    assert select.labels is not None
    assert torch.equal(select.images, select.labels)


def test_too_few_images_are_refused():
    with pytest.raises(BenchError, match=r"2 dev images cannot be split"):
        selection.holdout(Images(torch.zeros(2), None), selection.SELECT)


def test_accuracy_has_the_oracles_of_its_definition():
    head = torch.eye(4)
    labels = torch.tensor([0, 1, 2, 3, 1, 1])
    perfect, constant = head[labels], head[torch.ones(6, dtype=torch.int64)]
    assert selection.accuracy(perfect, labels, head) == 1.0
    assert selection.accuracy(constant, labels, head) == 0.5
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    assert selection.accuracy(constant[order], labels[order], head) == 0.5
    noisy = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    truth = torch.arange(50) % 4
    one_by_one = [int(f.argmax()) == int(y) for f, y in zip(noisy, truth, strict=True)]
    assert selection.accuracy(noisy, truth, head) == pytest.approx(sum(one_by_one) / 50)
    assert selection.agreement(labels, labels) == 1.0
