"""Merges that work entry by entry: reference vectors, invariants, pieces against whole vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.merging.breadcrumbs import middling
from baselines.merging.consensus import consensus, tall_masks
from baselines.merging.dare_ta import Dropping, dropped
from baselines.merging.model_stock import ratio
from baselines.merging.pcb import Variant, pcb
from baselines.merging.ties import ties
from benchmark.algebra import flatten, task_vector, unflatten
from benchmark.components import build, option
from benchmark.errors import BenchError
from benchmark.pieces import count_entries, pieces, rows_of, thinned, untrained
from benchmark.seeds import generator
from benchmark.types import Expert
from tests import tiny
from tests.test_merging import VECTORS, as_experts, merged, rows

CTX = tiny.context()
BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)


def merge(name: str, **values: Any) -> Any:
    return build({**option("merge", name), **values}, "merge")


def whole(experts: list[Expert] = EXPERTS, base: dict[str, Tensor] = BASE) -> Tensor:
    """The flattened task vectors (T,P)."""
    return torch.stack([flatten(task_vector(one.weights, base)) for one in experts])


def moved(part: Any, experts: list[Expert] = EXPERTS) -> Tensor:
    """The flattened difference that a merge makes."""
    return flatten(task_vector(part(BASE, experts, CTX).encoder, BASE))


def as_stored(vector: Tensor) -> Tensor:
    """What is left of a flattened difference once it is added to the float32 base."""
    parts = unflatten(vector, BASE)
    stored = {name: (BASE[name].double() + part).float() for name, part in parts.items()}
    return flatten(task_vector(stored, BASE))


# -- TIES in pieces


@pytest.mark.parametrize("combine", ["mean", "sum"])
@pytest.mark.parametrize("trim", ["global", "per_tensor"])
def test_ties_in_pieces_is_ties_on_whole_vectors(trim, combine):
    segments = [BASE[name].numel() for name in sorted(BASE)] if trim == "per_tensor" else None
    expected = ties(whole(), 0.3, combine, segments)
    found = moved(merge("ties", density=0.3, trim=trim, combine=combine, scale=1.0))
    assert torch.equal(found, as_stored(expected))


def test_ties_keeps_the_first_of_equal_magnitudes_across_pieces():
    base = {"a": torch.zeros(3), "b": torch.zeros(4)}
    tau = {"a": torch.tensor([1.0, -1, 1]), "b": torch.tensor([1.0, 2, -1, 1])}
    part = merge("ties", density=0.6, scale=1.0)  # 4 of 7: the 2 and the first three ones
    found = part(base, [Expert("t", tau, "k")], CTX).encoder
    assert found["a"].tolist() == [1, -1, 1]
    assert found["b"].tolist() == [0, 2, 0, 0]


def test_the_legacy_scope_keeps_more_of_the_tower():
    assert untrained(BASE, "visual") == 0
    width = BASE["proj"].shape[1]
    assert untrained(BASE, "openclip_legacy") == (49408 + 77 + 2 + width) * width + 1
    vit_b32 = {"proj": torch.empty(768, 512, device="meta")}
    assert untrained(vit_b32, "openclip_legacy") == 113_448_705 - 87_849_216
    part = merge("ties", density=0.02, combine="sum", scale=1.0)
    legacy = replace(part, scope="openclip_legacy")
    count = count_entries(BASE)
    more = 0.02 * (count + untrained(BASE, "openclip_legacy")) / count
    assert 0.1 < more < 1
    assert (moved(legacy) != 0).float().mean() > 3 * (moved(part) != 0).float().mean()
    assert legacy(BASE, EXPERTS, CTX).info["kept_per_task"] == pytest.approx(more, abs=1e-3)
    wide = replace(legacy, density=1.0)
    assert torch.equal(moved(wide), moved(replace(part, density=1.0)))
    with pytest.raises(BenchError, match="no matrix 'proj'"):
        untrained({"w": torch.zeros(3)}, "openclip_legacy")


def test_pieces_cover_every_floating_entry_once_in_order():
    base = {"b": torch.zeros(5), "a": torch.zeros(2, 3), "n": torch.zeros(3, dtype=torch.int64)}
    cut = [(one.name, one.start, one.stop) for one in pieces(base, 4)]
    assert cut == [("a", 0, 4), ("a", 4, 6), ("b", 0, 4), ("b", 4, 5)]
    assert [(one.name, one.stop) for one in pieces(base, None)] == [("a", 6), ("b", 5)]


@given(st.integers(1, 30), st.integers(0, 40))
def test_a_thin_sample_is_every_so_many_th_entry_of_the_rows(step, zeros):
    rows = [torch.cat(parts) for parts in zip(*rows_of(BASE, EXPERTS, zeros=zeros), strict=True)]
    few = [torch.cat(parts) for parts in zip(*thinned(BASE, EXPERTS, step, zeros), strict=True)]
    assert len(rows[0]) == count_entries(BASE) + zeros
    for row, some in zip(rows, few, strict=True):
        assert torch.equal(some, row[::step])


def test_rows_and_samples_are_where_the_weights_are():
    """On a device without numbers, since a GPU may not be at hand."""
    base = {name: value.to("meta") for name, value in BASE.items()}
    expert = Expert("t", base, "k")
    for parts in (rows_of(base, [expert], zeros=9), thinned(base, [expert], 5, 9)):
        assert {row.device.type for (row,) in parts} == {"meta"}


# -- DARE


def test_dare_without_dropping_is_the_merge_it_thins():
    assert torch.equal(
        moved(merge("dare_ta", drop=0.0)), moved(merge("task_arithmetic", scale=0.3))
    )
    same = {"density": 0.3, "trim": "per_tensor", "combine": "mean", "scale": 0.7}
    assert torch.equal(moved(merge("dare_ties", drop=0.0, **same)), moved(merge("ties", **same)))


def test_dare_keeps_the_share_it_says_and_the_expectation():
    vector = torch.full((100_000,), 2.0, dtype=torch.float64)
    thin = dropped(vector, 0.9, generator("dare"))
    assert set(thin.tolist()) == {0.0, 2.0 / (1 - 0.9)}
    share = float((thin != 0).double().mean())
    assert abs(share - 0.1) < 4 * (0.09 / 100_000) ** 0.5
    assert float(thin.mean()) == pytest.approx(2, rel=0.04)


@given(st.integers(1, 60), st.integers(0, 10**6))
def test_a_mask_does_not_depend_on_pieces(size, seed):
    """In order, in another order, and passed over twice: as the whole tensor at once."""
    base = {"a": torch.zeros(40), "b": torch.zeros(3, 17)}
    expert = Expert("t", {name: torch.ones_like(value) for name, value in base.items()}, "k")
    ctx = tiny.context(merge("dare_ta"), seed=seed)
    wanted = {
        name: dropped(torch.ones(value.numel()), 0.5, ctx.rng("t", name))
        for name, value in base.items()
    }
    change, cut = Dropping([expert], 0.5, ctx), pieces(base, size)
    for one in (*cut, *cut, *reversed(cut)):
        found = change(0, one, torch.ones(one.stop - one.start))
        assert torch.equal(found, wanted[one.name][one.start : one.stop])


def test_a_mask_belongs_to_seed_task_and_tensor():
    part = merge("dare_ta", drop=0.5, scale=1.0)
    alone = {one.task: moved(part, [one]) for one in EXPERTS}
    together = moved(part)
    assert torch.allclose(together, sum(alone.values(), torch.zeros_like(together)), atol=1e-6)
    other = part(BASE, EXPERTS, tiny.context(seed=1)).encoder
    assert not tiny.equal(other, part(BASE, EXPERTS, CTX).encoder)
    masks = [vector != 0 for vector in alone.values()]
    assert 0.4 < float((masks[0] == masks[1]).float().mean()) < 0.6


# -- Breadcrumbs


def test_breadcrumbs_reference_vector():
    part = merge("breadcrumbs", density=0.5, outliers=0.1, scale=0.2)
    expected = [0.18, 0.6, -0.02, -0.8, 0.56, 0, 0, 0.17, 0.19, 0.03]
    for trim in ("per_row", "per_tensor"):
        assert merged(replace(part, trim=trim)) == pytest.approx(expected, abs=1e-6)


def test_breadcrumbs_counts_by_row_or_by_tensor():
    values = torch.randn(7, 40, generator=generator("rows"))
    found = middling(values, 0.2, 0.05)
    assert ((found != 0).sum(1) == 8).all()
    for row, masked in zip(values, found, strict=True):
        order = row.abs().argsort(descending=True)
        assert set(order[2:10].tolist()) == set(masked.nonzero().flatten().tolist())
    assert int((middling(values.flatten(), 0.2, 0.05) != 0).sum()) == 56
    assert middling(torch.tensor([3.0, 1, 2]), 1.0, 0.0).tolist() == [3, 1, 2]
    assert middling(torch.tensor([3.0, 1, 2]), 0.4, 0.01).tolist() == [3, 0, 0]  # no outlier of 3
    assert middling(torch.tensor([1.0, -1, 1, 1]), 0.25, 0.25).tolist() == [0, -1, 0, 0]


@given(st.integers(1, 400), st.sampled_from([0.05, 0.3, 0.7]), st.integers(0, 100))
def test_breadcrumbs_of_one_row_need_no_sorting(count, density, seed):
    """Many are equal in magnitude; the first of them go first, then stay first."""
    row = (2 * torch.randn(count, generator=generator(seed))).round().double()
    sorted_out = middling(torch.stack([row, row]), density, 0.1)[0]
    assert torch.equal(middling(row, density, 0.1), sorted_out)


def test_breadcrumbs_of_everything_is_task_arithmetic():
    part = merge("breadcrumbs", density=1.0, outliers=0.0, scale=0.3)
    assert torch.equal(moved(part), moved(merge("task_arithmetic", scale=0.3)))


# -- Consensus


def test_tall_masks_and_consensus_reference_vectors():
    masks = [
        [1, 0, 1, 1, 1, 0, 0, 0, 1, 1],
        [1, 1, 1, 1, 1, 0, 0, 1, 0, 1],
        [1, 1, 1, 0, 0, 1, 1, 1, 1, 1],
    ]
    assert tall_masks(VECTORS, 0.4).int().tolist() == masks
    expected = [1.4, 3, 0.6, -4, -2.2, 0, 0, 1, 0.8, 0.03]
    assert consensus(VECTORS, 0.4, 2).tolist() == pytest.approx(expected)
    assert merged(merge("consensus", threshold=0.4, scale=1.0)) == pytest.approx(expected, abs=1e-6)


def test_consensus_of_none_is_task_arithmetic_and_of_too_many_is_refused():
    assert consensus(VECTORS, 0.4, 0).tolist() == VECTORS.sum(0).tolist()
    assert not consensus(VECTORS, 0.4, 4).any()
    part = merge("consensus", min_tasks=4)
    assert "min_tasks=4 of 3 experts can never agree" in part.accepts(EXPERTS)
    none = merge("consensus", min_tasks=0, scale=0.3)
    assert torch.equal(moved(none), moved(merge("task_arithmetic", scale=0.3)))


@settings(max_examples=60, deadline=None)
@given(rows, st.floats(0, 10), st.integers(0, 5))
def test_consensus_invariants(table: list[list[float]], threshold: float, agree: int):
    vectors = torch.tensor(table, dtype=torch.float64)
    found, total = consensus(vectors, threshold, agree), vectors.sum(0)
    assert ((found == 0) | (found == total)).all()
    assert not consensus(vectors, threshold, len(vectors) + 1).any()
    assert torch.equal(consensus(4 * vectors, threshold, agree), 4 * found)
    fewer = consensus(vectors, threshold, agree + 1)
    assert ((fewer == 0) | (found == total)).all()


# -- PCB


def test_pcb_reference_vector():
    expected = [0, 1.5, 0, -3, -2.5, 0, 0, 0, 0, 0]
    assert pcb(VECTORS, 0.2, "nlp").tolist() == pytest.approx(expected)
    part = merge("pcb", variant="nlp", density=0.2, scale=1.0)
    assert merged(part) == pytest.approx(expected, abs=1e-6)


def test_pcb_refuses_a_density_that_leaves_nothing_to_scale_by():
    with pytest.raises(BenchError, match=r"density=0\.05 keeps one of 10 .*more than 0\.1"):
        pcb(VECTORS, 0.05, "nlp")


def by_sorting(vectors: Tensor, density: float, variant: Variant) -> Tensor:
    """PCB the plain way: everything sorted, everything at once."""
    tasks, count = vectors.shape
    tail = 0.0001 if variant == "nlp" else 0.01

    def clipped(values: Tensor, low: float, high: float) -> Tensor:
        ranks = values.sort(dim=1).values
        lowest = ranks[:, [int(count * low)]]
        return values.clamp(lowest, ranks[:, [int(count * (1 - high) - 1)]])

    def scaled(values: Tensor) -> Tensor:
        low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
        return (values - low) / (high - low)

    sizes = clipped(vectors.abs(), tail, tail)
    own = scaled(sizes)
    signed = vectors.sign() * own
    between = (
        torch.tanh(vectors * vectors.sum(0))
        if variant == "nlp"
        else sum(torch.tanh(signed * other) for other in signed)
    )
    weights = scaled(clipped((tasks * own**2).exp() * between, 1 - density, 0))
    return (weights * vectors.sign() * sizes).sum(0) / weights.sum(0).clamp(min=1e-12)


@pytest.mark.parametrize("variant", ["nlp", "vision"])
@pytest.mark.parametrize("density", [0.05, 0.3])
def test_pcb_is_what_sorting_gives(variant: Variant, density: float):
    vectors = whole()
    expected = by_sorting(vectors, density, variant)
    assert torch.allclose(pcb(vectors, density, variant), expected, atol=1e-12)
    part = merge("pcb", variant=variant, density=density, scale=1.0)
    assert torch.allclose(moved(part), expected, atol=1e-7)
    wide = torch.cat([vectors, torch.zeros(3, untrained(BASE, "openclip_legacy"))], dim=1)
    legacy = by_sorting(wide, density, variant)[: vectors.shape[1]]
    assert torch.allclose(moved(replace(part, scope="openclip_legacy")), legacy, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(rows, st.sampled_from([0.3, 0.5, 1.0]), st.sampled_from(["nlp", "vision"]))
def test_pcb_invariants(table: list[list[float]], density: float, variant: Variant):
    vectors = torch.tensor(table, dtype=torch.float64)
    tasks, count = vectors.shape
    if density * count <= 1:
        with pytest.raises(BenchError, match="keeps one of"):
            pcb(vectors, density, variant)
        return
    found = pcb(vectors, density, variant)
    assert found.isfinite().all()
    # A weighted mean lies between what it weighs.
    ends = torch.cat([vectors, vectors.abs().amin(1, keepdim=True) * vectors.sign(), 0 * vectors])
    limit = vectors.abs().amax(1).max()
    assert (found.abs() <= limit + 1e-9).all()
    assert (found <= ends.amax(0).clamp(min=0) + limit).all()
    assert torch.allclose(pcb(vectors.flip(0), density, variant), found)
    assert torch.allclose(pcb(-vectors, density, variant), -found)
    zeroed = pcb(torch.zeros(tasks, count, dtype=torch.float64), density, variant)
    assert not zeroed.any()


# -- Model Stock


def test_model_stock_reference_vector():
    zero, experts = as_experts(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    found = merge("model_stock")(zero, experts, CTX).encoder["w"]
    assert found.tolist() == pytest.approx([0.6, 0.3], abs=1e-6)
    assert ratio(torch.tensor([[1.0, 0.0], [0.6, 0.8]])) == pytest.approx(0.75)


def test_model_stock_limits():
    part = merge("model_stock")
    twins = [replace(EXPERTS[0], task=name) for name in "abc"]
    expected = EXPERTS[0].weights
    assert all(torch.allclose(v, expected[k]) for k, v in part(BASE, twins, CTX).encoder.items())
    assert tiny.equal(part(BASE, EXPERTS[:1], CTX).encoder, expected)
    assert ratio(torch.eye(3)) == 0
    assert ratio(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])) == 0
    assert ratio(torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.floats(0, 1), st.floats(0, 1))
def test_model_stock_grows_with_the_cosine(tasks: int, first: float, second: float):
    low, high = sorted((first, second))

    def at(cosine: float) -> float:
        """Vectors that all have this cosine with each other."""
        shared = torch.full((tasks, 1), cosine**0.5, dtype=torch.float64)
        return ratio(torch.cat([shared, (1 - cosine) ** 0.5 * torch.eye(tasks)], dim=1))

    assert at(low) <= at(high) + 1e-9
    assert at(low) == pytest.approx(tasks * low / (1 + (tasks - 1) * low), abs=1e-6)
