"""Merges: reference vectors of independent implementations, and invariants."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.merging.simple_average import SimpleAverage
from baselines.merging.task_arithmetic import TaskArithmetic
from baselines.merging.ties import Combine, Ties, kept, ties, trimmed
from benchmark import algebra
from benchmark.components import build, option, options
from benchmark.errors import BenchError, IncompatibleWeights
from benchmark.listing import entry, listing
from benchmark.models.lora import Lora
from benchmark.types import Expert
from tests import tiny

# spec/merges_defences.md 4.1; results agree with mergekit and peft.
VECTORS = torch.tensor(
    [
        [4, -1, 0.5, -3, 2, 0.25, 0.1, -0.2, 0.3, -0.4],
        [0.9, 2.5, -0.6, -2, -5, 0.05, 0.15, 0.35, -0.45, 0.55],
        [-3.5, 1.5, 0.7, 1, 0.8, 0.65, -0.75, 0.85, 0.95, -0.12],
    ],
    dtype=torch.float64,
)
TIES = [
    (1.0, "mean", [2.45, 2, 0.6, -2.5, -5, 0.95 / 3, -0.75, 0.6, 0.625, 0.55]),
    (0.2, "mean", [4, 2, 0, -3, -5, 0, 0, 0, 0, 0]),
    (0.2, "sum", [4, 4, 0, -3, -5, 0, 0, 0, 0, 0]),
    (1.0, "sum", [4.9, 4, 1.2, -5, -5, 0.95, -0.75, 1.2, 1.25, 0.55]),
    (0.5, "sum", [4.9, 4, -0.6, -5, -5, 0, 0, 0.85, 0.95, 0]),
]


def ties_merge(**values: Any) -> Ties:
    chosen = {"density": 0.2, "trim": "global", "combine": "sum", "scale": 1.0, **values}
    return build({**option("merge", "ties"), **chosen}, "merge")


MERGES = [
    SimpleAverage(),
    TaskArithmetic(scale=1.0),
    ties_merge(density=1.0, combine="mean"),
    ties_merge(density=1.0, trim="per_tensor"),
]
CTX = tiny.context()
LORA = Lora(targets="all", rank=3, alpha=6, lr=0.01)
FREE = [name for name in options("merge") if "${" not in json.dumps(option("merge", name))]


def experts_of(merge, base: dict[str, Tensor]) -> list[Expert]:
    """Random experts of the kind that the merge takes."""
    experts = tiny.random_experts(base)
    return experts if merge.accepts(experts) is None else tiny.lora_experts(base, LORA)


def as_experts(vectors: Tensor) -> tuple[dict[str, Tensor], list[Expert]]:
    zero = {"w": torch.zeros(vectors.shape[1])}
    return zero, [Expert(f"t{i}", {"w": row.float()}, f"k{i}") for i, row in enumerate(vectors)]


def merged(merge, vectors: Tensor = VECTORS) -> list[float]:
    zero, experts = as_experts(vectors)
    return merge(zero, experts, CTX).encoder["w"].tolist()


def test_task_arithmetic_reference_vectors():
    full = [1.4, 3, 0.6, -4, -2.2, 0.95, -0.5, 1, 0.8, 0.03]
    assert merged(TaskArithmetic(scale=1.0)) == pytest.approx(full, abs=1e-6)
    assert merged(TaskArithmetic(scale=0.3)) == pytest.approx([0.3 * x for x in full], abs=1e-6)
    assert merged(SimpleAverage()) == pytest.approx([x / 3 for x in full], abs=1e-6)
    assert merged(TaskArithmetic(scale=0.0)) == [0.0] * 10


@pytest.mark.parametrize(("density", "combine", "expected"), TIES)
def test_ties_reference_vectors(density: float, combine: Combine, expected: list[float]):
    assert ties(VECTORS, density, combine).tolist() == pytest.approx(expected, abs=1e-9)
    merge = ties_merge(density=density, combine=combine)
    assert merged(merge) == pytest.approx(expected, abs=1e-6)


def test_ties_sign_sum_of_zero_is_positive():
    vectors = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
    assert ties(vectors, 1.0, "mean").tolist() == [1.0, 2.0]


def test_ties_zero_entries_never_enter_the_mean():
    vectors = torch.tensor([[3.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert ties(vectors, 1.0, "mean").tolist() == [2.0, 0.0]


def test_kept_counts_read_the_density_as_a_decimal():
    assert [kept(0.29, 100), kept(0.2, 10), kept(0.1, 9), kept(1.0, 7)] == [29, 2, 0, 7]
    assert kept(1e-7, 10**8) == 10


def test_trim_ties_keep_the_first():
    assert trimmed(torch.tensor([1.0, -1.0, 1.0, 2.0]), 0.5).tolist() == [1.0, 0.0, 0.0, 2.0]
    assert trimmed(torch.zeros(4), 0.5).count_nonzero() == 0


def test_per_tensor_and_global_trimming_differ():
    vectors = torch.tensor([[5.0, 4.0, 0.2, 0.1]])
    assert ties(vectors, 0.5, "sum").tolist() == pytest.approx([5.0, 4.0, 0, 0])
    assert ties(vectors, 0.5, "sum", [2, 2]).tolist() == pytest.approx([5.0, 0, 0.2, 0])
    base = {"x": torch.zeros(2), "y": torch.zeros(2)}
    expert = Expert("t", {"x": vectors[0, :2], "y": vectors[0, 2:]}, "k")
    model = ties_merge(density=0.5, trim="per_tensor")(base, [expert], CTX)
    assert model.encoder["y"].tolist() == pytest.approx([0.2, 0])
    assert model.info["kept_per_task"] == 0.5


@pytest.mark.parametrize("merge", MERGES)
def test_one_expert_at_scale_one_comes_back_bit_for_bit(merge):
    base = tiny.base()
    expert = tiny.random_experts(base)[0]
    assert tiny.equal(merge(base, [expert], CTX).encoder, expert.weights)


@pytest.mark.parametrize("merge", MERGES)
def test_experts_that_are_the_base_return_the_base(merge):
    base = tiny.base()
    experts = [Expert(task, tiny.copied(base), task) for task in tiny.TASKS]
    assert tiny.equal(merge(base, experts, CTX).encoder, base)


@pytest.mark.parametrize("name", FREE)
def test_merges_of_weights_keep_form_and_inputs(name: str):
    merge = build(option("merge", name), "merge")
    assert merge.needs == ()
    base = tiny.base() | {"steps": torch.tensor([7])}
    experts = [
        replace(one, weights={**one.weights, "steps": torch.tensor([9])})
        for one in experts_of(merge, tiny.base())
    ]
    before = [tiny.copied(one.weights) for one in experts]
    model = merge(base, experts, CTX)
    assert {k: (v.shape, v.dtype) for k, v in model.encoder.items()} == {
        k: (v.shape, v.dtype) for k, v in base.items()
    }
    assert model.encoder["steps"].tolist() == [7]
    assert all(tiny.equal(one.weights, old) for one, old in zip(experts, before, strict=True))
    again = merge(base, experts, CTX)
    assert tiny.equal(model.encoder, again.encoder)
    assert model.info == again.info
    turned = merge(base, experts[::-1], CTX).encoder
    assert all(torch.allclose(turned[k], v, atol=1e-6) for k, v in model.encoder.items())
    assert merge.accepts(experts) is None
    assert all(math.isfinite(length) for length in model.info["norms"].values())
    assert json.loads(json.dumps(model.info)) == model.info


@pytest.mark.parametrize("name", FREE)
def test_experts_that_moved_nowhere_give_the_base(name: str):
    merge, base = build(option("merge", name), "merge"), tiny.base()
    factors = experts_of(merge, base)[0].factors
    experts = [Expert(task, tiny.copied(base), task, factors) for task in tiny.TASKS]
    assert tiny.equal(merge(base, experts, CTX).encoder, base)


@pytest.mark.parametrize("name", FREE)
def test_merges_of_weights_refuse_what_cannot_be_merged(name: str):
    merge, base = build(option("merge", name), "merge"), tiny.base()
    experts = experts_of(merge, base)
    assert merge.accepts([])
    for value in (math.nan, math.inf):
        bad = {**experts[1].weights, "proj": torch.full_like(base["proj"], value)}
        with pytest.raises(IncompatibleWeights, match="task 'b' cannot be merged: proj is not fin"):
            merge(base, [experts[0], replace(experts[1], weights=bad)], CTX)
    short = {name: value for name, value in experts[1].weights.items() if name != "proj"}
    with pytest.raises(IncompatibleWeights, match="task 'b' cannot be merged: proj is missing"):
        merge(base, [experts[0], replace(experts[1], weights=short)], CTX)


@pytest.mark.parametrize("name", options("merge"))
def test_every_merge_tells_paper_data_parameters_and_cost(name: str):
    told = entry("merge", name)
    assert told["paper"]
    assert told["sees"]
    assert told.get("cost")
    assert "_target_" not in told["values"]
    assert "\n  cost: " in listing("merges", verbose=True)


@pytest.mark.parametrize("value", [-0.1, 11, float("nan")])
def test_bounds_are_told_in_one_sentence(value: float):
    with pytest.raises(BenchError, match=r"^merge\.scale=.* is not valid"):
        build({**option("merge", "task_arithmetic"), "scale": value}, "merge")


def test_incompatible_experts_are_named():
    base = {name: torch.zeros(2) for name in "abcde"}
    bad = {"a": torch.zeros(3), "b": torch.tensor([0.0, math.nan]), "z": torch.zeros(2)}
    with pytest.raises(IncompatibleWeights) as caught:
        TaskArithmetic(scale=0.3)(base, [Expert("signs", bad, "k")], CTX)
    text = str(caught.value)
    assert "expert of task 'signs'" in text
    assert "a is (3,), not (2,), b is not finite, c is missing and 3 more" in text
    with pytest.raises(IncompatibleWeights, match=r"the base .* a is not finite"):
        algebra.check_same({"a": torch.tensor([math.inf])})


def test_flatten_is_sorted_and_invertible():
    delta = {"b": torch.arange(4.0).view(2, 2), "a": torch.tensor([9.0])}
    assert algebra.flatten(delta).tolist() == [9, 0, 1, 2, 3]
    assert tiny.equal(algebra.unflatten(algebra.flatten(delta), delta), delta)
    assert algebra.norm(delta) == pytest.approx(95**0.5)
    assert algebra.cosines([delta, delta])[0][1] == pytest.approx(1)
    assert algebra.cosine(delta, {name: 0 * value for name, value in delta.items()}) == 0


numbers = st.floats(-8, 8, allow_nan=False, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
rows = st.integers(1, 12).flatmap(
    lambda width: st.lists(
        st.lists(numbers, min_size=width, max_size=width), min_size=1, max_size=4
    )
)


@settings(max_examples=60, deadline=None)
@given(rows, st.sampled_from([0.1, 0.25, 0.5, 0.8, 1.0]))
def test_ties_invariants(table: list[list[float]], density: float):
    vectors = torch.tensor(table, dtype=torch.float64)
    mean, added = ties(vectors, density, "mean"), ties(vectors, density, "sum")
    assert torch.equal(ties(4 * vectors, density, "sum"), 4 * added)
    assert torch.allclose(ties(vectors.flip(0), density, "mean"), mean)
    assert (mean.abs() <= added.abs() + 1e-12).all()
    assert (mean * added >= 0).all()
    nonzero = [int(trimmed(row, density).count_nonzero()) for row in vectors]
    allowed = kept(density, vectors.shape[1])
    assert nonzero == [min(allowed, int(row.count_nonzero())) for row in vectors]
    same_sign = vectors.abs()
    assert torch.allclose(ties(same_sign, 1.0, "sum"), same_sign.sum(0))


@settings(max_examples=60, deadline=None)
@given(rows, st.floats(0, 2))
def test_task_arithmetic_invariants(table: list[list[float]], scale: float):
    vectors = torch.tensor(table)
    base = {"w": torch.linspace(-1, 1, vectors.shape[1])}
    experts = [Expert(f"t{i}", {"w": row}, "k") for i, row in enumerate(vectors)]
    once = TaskArithmetic(scale=scale)(base, experts, CTX).encoder["w"]
    assert torch.allclose(once, base["w"] + scale * (vectors - base["w"]).sum(0), atol=1e-4)
    average = TaskArithmetic(scale=1 / len(experts))(base, experts, CTX).encoder["w"]
    assert torch.equal(SimpleAverage()(base, experts, CTX).encoder["w"], average)
    one = TaskArithmetic(scale=1.0)(base, experts[:1], CTX).encoder["w"]
    assert torch.equal(one, vectors[0])
    opposite = Expert("minus", {"w": 2 * base["w"] - vectors[0]}, "k")
    cancelled = TaskArithmetic(scale=scale)(base, [experts[0], opposite], CTX).encoder["w"]
    assert torch.allclose(cancelled, base["w"], atol=1e-5)
