"""Fine-tuning defences: the step that each takes, whose labels it takes, what it returns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from baselines.merging.task_arithmetic import TaskArithmetic
from benchmark.algebra import norm
from benchmark.components import build, option
from benchmark.errors import AccessDenied
from benchmark.models.heads import logits
from benchmark.optimisation.sam import adaptive_displacement
from benchmark.optimisation.tuning import optimiser_of, relabelled, tuning_of
from benchmark.selection import dev_parts, mean_accuracy
from benchmark.training import cosine_rate
from benchmark.types import Grant, Model
from tests import tiny

BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGE = TaskArithmetic(scale=0.3)
MERGED = MERGE(BASE, EXPERTS, tiny.context()).encoder
TOY = {"lr": 1e-3, "batch": 4, "checks": 2, "images": 24, "label_smoothing": 0.0}
LOOKS = 24  # 3 looks at 24 selection images, forward only
LABELLING = 16  # 48 training images, forward only
STEP = 12  # 4 images of each of 3 tasks


def defense(name: str, steps: int = 4, **values: Any) -> Any:
    each = 2 if "sam" in name else 1
    pseudo = values.get("supervision", option("defense", name)["supervision"]) == "pseudo"
    passes = LOOKS + each * STEP * steps + (LABELLING if pseudo else 0)
    return build({**option("defense", name), **TOY, "passes": passes, **values}, "defense")


def run(part: Any, ctx: Any = None) -> Model:
    ctx = ctx or tiny.context(part, role=("defense", "tested"))
    return part(tiny.merge_of(Model(MERGED)), BASE, EXPERTS, ctx)


def told(model: Model) -> list[list[float]]:
    return next(model.info[name] for name in ("accuracy", "agreement") if name in model.info)


# -- what a step is


@pytest.mark.parametrize("name", ["ft_sam", "ft_asam", "pam"])
@pytest.mark.parametrize("supervision", ["labels", "pseudo"])
def test_rho_zero_is_fine_tuning_bit_for_bit(name: str, supervision: Any):
    plain = run(defense("ft", supervision=supervision, lr=3e-3))
    other = run(defense(name, supervision=supervision, lr=3e-3, rho=0.0))
    assert plain.info["steps"] == other.info["steps"] == 4
    assert told(plain) == told(other)
    assert tiny.equal(plain.encoder, other.encoder)


@pytest.mark.parametrize("name", ["ft_sam", "ft_asam", "pam"])
def test_rho_changes_the_step(name: str):
    plain = run(defense("ft", supervision="pseudo", lr=3e-3))
    other = run(defense(name, supervision="pseudo", lr=3e-3, rho=1.0))
    assert not tiny.equal(plain.encoder, other.encoder)


def test_adaptive_displacement_by_hand():
    weights = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([[0.0]])}
    gradient = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[5.0]])}
    found = adaptive_displacement(weights, gradient, 2.0)
    # T g = (3, 8, 0), T² g = (3, 16, 0)
    assert torch.allclose(found["a"], 2 * torch.tensor([3.0, 16.0]) / 73**0.5)
    assert found["b"].item() == 0
    relative = {"a": found["a"] / weights["a"]}
    assert norm(relative) == pytest.approx(2.0)
    still = {"a": torch.zeros(2), "b": torch.zeros(1, 1)}
    assert norm(adaptive_displacement(still, gradient, 2.0)) == 0


def vectors(seed: int) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(3, 2, generator=rng), "b": torch.randn(4, generator=rng)}


@given(seed=st.integers(0, 1000), rho=st.floats(0, 10))
def test_path_aware_gradient_is_taken_rho_nearer_to_the_undefended_model(seed: int, rho: float):
    start, present, gradient = (vectors(seed + step) for step in range(3))
    asked: list[Any] = []

    def gradient_at(weights: Any) -> Any:
        asked.append(weights)
        return gradient

    found = defense("pam", rho=rho).gradient(present, start, gradient_at)
    assert found is gradient
    (point,) = asked
    back = {name: point[name] - present[name] for name in present}
    gone = {name: present[name] - start[name] for name in present}
    assert norm(back) == pytest.approx(rho, abs=1e-5)
    for name, value in back.items():
        assert torch.allclose(value, -rho * gone[name] / norm(gone), atol=1e-5)
    defense("pam", rho=rho).gradient(start, start, gradient_at)
    assert all(torch.equal(asked[1][name], value) for name, value in start.items())


@pytest.mark.parametrize(("name", "rho"), [("ft_sam", 0.5), ("ft_asam", 0.5)])
def test_ascent_gradient_is_taken_where_the_loss_is_higher(name: str, rho: float):
    """Of a quadratic w²/2 the gradient is w; along it, and against it, w grows in size."""
    asked: list[Any] = []

    def gradient_at(weights: Any) -> Any:
        asked.append(weights)
        return dict(weights)

    present = {"w": torch.tensor([1.0, -1.0])}
    found = defense(name, rho=rho).gradient(present, present, gradient_at)
    grown = 1 + rho / 2**0.5  # |w| = |T w| = sqrt(2)
    assert torch.allclose(found["w"], grown * present["w"])
    assert len(asked) == 2
    assert asked[0] is present


# -- optimisers


def test_sgd_is_momentum_with_coupled_decay_and_no_dampening():
    tuning = tuning_of(defense("ft", optimiser="sgd", lr=0.1, momentum=0.9, weight_decay=0.01))
    weights = torch.tensor([1.0, -2.0])
    optimiser, velocity, by_hand = optimiser_of(tuning, [weights]), 0.0, weights.clone()
    for _ in range(5):
        weights.grad = 3 * weights  # of 3 w²/2
        optimiser.step()
        velocity = 0.9 * velocity + 3 * by_hand + 0.01 * by_hand
        by_hand = by_hand - 0.1 * velocity
    assert torch.allclose(weights, by_hand)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_fine_tuning_is_the_plain_loop(optimiser: str):
    part = defense("ft", optimiser=optimiser, checks=1, passes=64, label_smoothing=0.1, lr=1e-2)
    ctx = tiny.context(part, role=("defense", "tested"))
    train, select = dev_parts(ctx, tiny.TASKS, part.needs[0])
    weights = {name: value.clone().requires_grad_() for name, value in MERGED.items()}
    made = {
        "adamw": lambda: torch.optim.AdamW(weights.values(), lr=1, weight_decay=0.1),
        "sgd": lambda: torch.optim.SGD(weights.values(), lr=1, momentum=0.9, weight_decay=0.1),
    }[optimiser]()
    draws = {task: ctx.rng("batches", task) for task in tiny.TASKS}
    for step in range(4):
        made.param_groups[0]["lr"] = cosine_rate(1e-2, 0.1, step, 4)
        made.zero_grad()
        for task, images in train.items():
            rows = torch.randperm(16, generator=draws[task])[:4]
            scores = logits(ctx.encoder(weights, images.images[rows]), ctx.heads[task])
            assert images.labels is not None
            loss = cross_entropy(scores, images.labels[rows], label_smoothing=0.1)
            # One task at a time: Adam blows the rounding of another order up to a whole step.
            (loss / 3).backward()
        made.step()
    found = run(part)
    assert found.info["steps"] == 4
    assert told(found) == [
        [0, mean_accuracy(ctx, MERGED, select)],
        [4, mean_accuracy(ctx, weights, select)],
    ]
    assert told(found)[1][1] > told(found)[0][1]
    assert all(
        torch.allclose(found.encoder[name], value, atol=1e-6) for name, value in weights.items()
    )


# -- whose labels


PSEUDO = ["ft_pseudo", "ft_sam_pseudo", "ft_asam_pseudo", "pam_pseudo"]


@pytest.mark.parametrize("name", PSEUDO)
def test_pseudo_labels_are_not_the_true_ones(name: str):
    part = defense(name)
    ctx = tiny.context(part, role=("defense", "tested"))
    with pytest.raises(AccessDenied):
        ctx.images("a", Grant("dev", labels=True, per_task=24))

    def scrambled(task: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = tiny.split(task, split, 48)
        return images, 3 - labels

    found = run(part, ctx)
    again = run(part, tiny.context(part, role=("defense", "tested")).narrowed(_split=scrambled))
    assert tiny.equal(found.encoder, again.encoder)
    assert found.info == again.info
    assert found.info["labels"] == 0
    assert not tiny.equal(found.encoder, MERGED)


def test_pseudo_labels_are_the_undefended_models_predictions():
    part = defense("ft_pseudo")
    ctx = tiny.context(part)
    train, _ = dev_parts(ctx, tiny.TASKS, part.needs[0])
    assert all(images.labels is None for images in train.values())
    for task, images in relabelled(ctx, MERGED, train).items():
        scores = logits(ctx.encoder(MERGED, images.images), ctx.heads[task])
        assert images.labels is not None
        assert torch.equal(images.labels, scores.argmax(1))


# -- what it returns and what it costs


@pytest.mark.parametrize("supervision", ["labels", "pseudo"])
@pytest.mark.parametrize("lr", [1e-3, 3e-3, 0.1])
def test_best_is_the_maximum_and_last_is_the_end(supervision: Any, lr: float):
    """With pseudo-labels the merge itself, whose agreement is 1, does not take part."""
    passes = 8 * 5 + 8 * STEP + (LABELLING if supervision == "pseudo" else 0)
    values = {"supervision": supervision, "lr": lr, "checks": 4, "passes": passes}
    best, last = (run(defense("ft", **values, keep=keep)) for keep in ("best", "last"))
    assert told(best) == told(last)
    assert [step for step, _ in told(best)] == [0, 2, 4, 6, 8]
    first = 0 if supervision == "labels" else 1
    ctx = tiny.context(defense("ft", supervision=supervision))
    _, select = dev_parts(ctx, tiny.TASKS, tuning_of(defense("ft", supervision=supervision)).grant)
    if supervision == "pseudo":
        assert told(best)[0] == [0, 1.0]
        select = relabelled(ctx, MERGED, select)
    shares = [share for _, share in told(best)]
    assert mean_accuracy(ctx, best.encoder, select) == max(shares[first:])
    assert mean_accuracy(ctx, last.encoder, select) == shares[-1]
    assert tiny.equal(best.encoder, MERGED) == (max(shares[first:]) == shares[0] and first == 0)
    assert not tiny.equal(last.encoder, MERGED)


@pytest.mark.parametrize(
    ("name", "step"), [("ft", 12), ("ft_sam", 24), ("ft_asam", 24), ("pam", 12)]
)
@pytest.mark.parametrize("supervision", ["labels", "pseudo"])
def test_passes_are_what_gradients_labels_and_looks_cost(name: str, step: int, supervision: Any):
    fixed = LOOKS + (LABELLING if supervision == "pseudo" else 0)
    for spare in (0, step - 1, step, 2 * step, 3 * step - 1):
        model = run(defense(name, supervision=supervision, passes=fixed + spare))
        assert model.info["steps"] == spare // step
        spent = fixed + step * (spare // step) if spare >= step else 0
        if spare // step != 1:  # a single step is looked at once, not twice
            assert model.info["passes"] == pytest.approx(spent)
    poor = run(defense(name, supervision=supervision, passes=0))
    assert tiny.equal(poor.encoder, MERGED)
    assert poor.info["passes"] == 0
