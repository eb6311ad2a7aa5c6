"""Merges of singular values, KnOTS and LiNeS: reference matrices and invariants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines.merging.iso_c import iso_c
from baselines.merging.iso_cts import directions, iso_cts
from baselines.merging.knots_ties import aligned
from baselines.merging.lines import layer_factors
from baselines.merging.tsv_m import tsv_m
from benchmark.algebra import task_vector
from benchmark.components import build, option
from benchmark.errors import IncompatibleWeights
from benchmark.models.lora import Lora
from benchmark.seeds import generator
from benchmark.spectra import polar, thin_svd
from benchmark.types import Expert
from tests import tiny

CTX = tiny.context()
BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
SPECTRAL = ("tsv_m", "iso_c", "iso_cts")
IN_PROJ = "transformer.resblocks.0.attn.in_proj_weight"
A = torch.tensor([[3.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
B = torch.tensor([[1.0, -1.0], [0.0, 2.0]], dtype=torch.float64)


def merge(name: str, **values: Any) -> Any:
    return build({**option("merge", name), **values}, "merge")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator("matrix", seed), dtype=torch.float64)


def delta(part: Any, experts: list[Expert] = EXPERTS) -> dict[str, Tensor]:
    return task_vector(part(BASE, experts, CTX).encoder, BASE)


def close(first: Tensor, second: Tensor, bound: float = 1e-6) -> bool:
    return float((first - second).abs().max()) <= bound * float(second.abs().max())


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))


# -- decompositions


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 99))
def test_the_economical_decomposition_is_an_svd(shape, seed):
    matrix = random(*shape, seed=seed)
    left, sizes, right = thin_svd(matrix)
    assert torch.allclose((left * sizes) @ right, matrix, atol=1e-5)
    assert torch.allclose(left.T @ left, torch.eye(len(sizes)).double(), atol=1e-6)
    assert torch.allclose(right @ right.T, torch.eye(len(sizes)).double(), atol=1e-6)
    expected = torch.linalg.svdvals(matrix)[: len(sizes)]
    assert torch.allclose(sizes, expected, atol=1e-9)


def test_rounding_errors_are_no_directions():
    product = random(20, 3) @ random(3, 12, seed=1)
    stored = (0.05 + product).float().double() - 0.05  # as the weights of an expert hold it
    assert len(thin_svd(stored)[1]) == 3
    assert len(torch.linalg.svdvals(stored)) == 12
    assert float(torch.linalg.svdvals(stored)[-1]) > 0
    assert [len(part) for part in thin_svd(torch.zeros(4, 3).double())[1:]] == [0, 0]
    assert len(thin_svd(product, floor=1e9)[1]) == 0


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 99))
def test_polar_factors_are_nearest(shape, seed):
    matrix = random(*shape, seed=seed)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert torch.allclose(polar(matrix), left @ right, atol=1e-5)


# -- Iso-C and Iso-CTS


def test_iso_c_reference_matrix():
    found = iso_c(torch.stack([A, B]))
    assert torch.allclose(found, torch.tensor([[4.5, -0.5], [0.5, 4.5]]).double())
    sizes = torch.linalg.svdvals(A + B)
    assert sizes.tolist() == pytest.approx([5.234799, 3.820586], abs=1e-6)
    assert torch.linalg.svdvals(found).tolist() == pytest.approx([4.527693] * 2, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(0, 99))
def test_iso_c_invariants(shape, tasks, seed):
    deltas = random(tasks, *shape, seed=seed)
    found = iso_c(deltas)
    before, after = torch.linalg.svdvals(deltas.sum(0)), torch.linalg.svdvals(found)
    assert torch.allclose(after, before.mean().expand_as(after), atol=1e-5)
    left, _, right = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    assert torch.allclose(left.T @ found @ right.T, torch.diag(after), atol=1e-5)
    assert torch.allclose(iso_cts(deltas, 1.0), found, atol=1e-6)


def test_iso_c_of_lora_experts_lifts_no_rounding_error():
    products = torch.stack([random(16, 2, seed=t) @ random(2, 12, seed=t + 9) for t in range(3)])
    sizes = torch.linalg.svdvals(iso_c((products + 0.05).float().double() - 0.05))
    expected = torch.linalg.svdvals(products.sum(0))[:6].mean()
    assert torch.allclose(sizes[:6], expected.expand(6), rtol=1e-5)
    assert float(sizes[6]) < 1e-9


def by_svd(deltas: Tensor, common: float) -> Tensor:
    """Iso-CTS the plain way, by full decompositions; for generic matrices."""
    tasks, rank = len(deltas), min(deltas.shape[1:])
    shared, each = directions(rank, tasks, common)
    left, sizes, right = torch.linalg.svd(deltas.sum(0), full_matrices=False)
    left, sizes, right = left[:, :shared], sizes[:shared], right[:shared]
    for one in deltas:
        own = torch.linalg.svd(one - left[:, -shared:] @ left[:, -shared:].T @ one)
        left = torch.cat([own[0][:, :each], left], 1)
        sizes = torch.cat([own[1][:each], sizes])
        right = torch.cat([own[2][:each], right])
    nearest = [u @ vt for u, _, vt in (torch.linalg.svd(x, False) for x in (left, right))]
    return sizes.mean() * nearest[0] @ nearest[1]


def test_iso_cts_is_what_full_decompositions_give():
    deltas = random(3, 10, 12)
    assert torch.allclose(iso_cts(deltas, 0.7), by_svd(deltas, 0.7), atol=1e-6)
    assert not torch.allclose(iso_cts(deltas, 0.7), iso_c(deltas), atol=1e-2)


def test_directions_of_iso_cts_make_up_the_rank():
    assert directions(768, 8, 0.8) == (616, 19)  # 154 of 768 are not common: 152
    assert directions(768, 8, 1.0) == (768, 0)
    assert directions(5, 3, 0.0) == (2, 1)  # rounding would ask for 6
    assert directions(2, 9, 0.5) == (2, 0)


# -- TSV-M


@settings(max_examples=30, deadline=None)
@given(shapes, st.integers(0, 99))
def test_tsv_m_of_one_task_is_that_task(shape, seed):
    one = random(1, *shape, seed=seed)
    assert torch.allclose(tsv_m(one), one[0], atol=1e-5)


def test_tsv_m_of_orthogonal_tasks_is_their_sum():
    left, right = torch.linalg.qr(random(12, 12))[0], torch.linalg.qr(random(12, 12, seed=1))[0]
    deltas = torch.stack(
        [left[:, 4 * t : 4 * t + 4] * (t + 1) @ right[:, 4 * t : 4 * t + 4].T for t in range(3)]
    )
    assert torch.allclose(tsv_m(deltas), deltas.sum(0), atol=4e-7)


def test_tsv_m_is_what_full_decompositions_give():
    deltas = random(3, 12, 9)
    parts = [torch.linalg.svd(one, full_matrices=False) for one in deltas]
    left = torch.cat([u[:, :3] for u, _, _ in parts], 1)
    right = torch.cat([vt[:3] for _, _, vt in parts])
    nearest = [u @ vt for u, _, vt in (torch.linalg.svd(x, False) for x in (left, right))]
    sizes = torch.cat([s[:3] for _, s, _ in parts])
    assert torch.allclose(tsv_m(deltas), nearest[0] * sizes @ nearest[1], atol=1e-6)


def test_tsv_m_beyond_its_formula():
    many = random(5, 3, 2)  # more tasks than rank: one triplet each, not an erased matrix
    assert tsv_m(many).isfinite().all()
    assert torch.linalg.matrix_rank(tsv_m(many)) == 2
    equal = random(1, 6, 6).expand(2, 6, 6)  # the three leading triplets, once
    left, sizes, right = torch.linalg.svd(equal[0])
    assert torch.allclose(tsv_m(equal), left[:, :3] * sizes[:3] @ right[:3], atol=1e-6)


# -- on a tower


@pytest.mark.parametrize("name", SPECTRAL)
def test_only_matrices_are_decomposed(name):
    mean = {
        key: torch.stack([task_vector(one.weights, BASE)[key] for one in EXPERTS]).mean(0)
        for key in BASE
    }
    every, linear = (
        delta(merge(name, matrices=which, scale=1.0)) for which in ("all_2d", "linear")
    )
    averaged = {key for key in BASE if close(linear[key], mean[key], 1e-5)}
    flat = {key for key, value in BASE.items() if value.ndim != 2}
    assert averaged == flat | {"positional_embedding", "proj"}
    assert {key for key in BASE if close(every[key], mean[key], 1e-5)} == flat
    assert torch.equal(every[IN_PROJ], linear[IN_PROJ])


@pytest.mark.parametrize("name", SPECTRAL)
def test_packed_matrices_are_split_on_request(name):
    split, packed = (delta(merge(name, qkv_split=one)) for one in (True, False))
    assert {key for key in BASE if not torch.equal(split[key], packed[key])} == {IN_PROJ}
    width = BASE[IN_PROJ].shape[1]
    part = merge(name, scale=1.0)
    for number in range(3):
        cut = slice(number * width, (number + 1) * width)
        base = {"w": BASE[IN_PROJ][cut]}
        alone = [replace(one, weights={"w": one.weights[IN_PROJ][cut]}) for one in EXPERTS]
        expected = task_vector(part(base, alone, CTX).encoder, base)["w"]
        assert close(split[IN_PROJ][cut] / merge(name).scale, expected, 1e-5)


def test_tsv_m_of_one_expert_is_that_expert():
    found = merge("tsv_m", scale=1.0)(BASE, EXPERTS[:1], CTX).encoder
    assert all(torch.allclose(found[k], v, atol=1e-6) for k, v in EXPERTS[0].weights.items())


# -- KnOTS

LORA = Lora(targets="all", rank=3, alpha=6, lr=0.01)
ADAPTED = tiny.lora_experts(BASE, LORA)


def test_knots_reference_matrices():
    one = torch.tensor([[1.0], [2.0]]) @ torch.tensor([[3.0, 0.0]])
    two = torch.tensor([[2.0], [-1.0]]) @ torch.tensor([[0.0, 1.0]])
    deltas = torch.stack([one, two]).double()
    basis, coordinates = aligned(deltas, 1e-5)
    assert torch.cat(list(coordinates), 1).norm(dim=1).tolist() == pytest.approx(
        [6.708204, 2.236068], abs=1e-6
    )
    sizes = torch.tensor([[[6.708204, 0], [0, 0]], [[0, 0], [0, 2.236068]]]).double()
    assert torch.allclose(coordinates.abs(), sizes, atol=1e-6)
    assert torch.allclose(basis @ coordinates.sum(0), deltas.sum(0), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(0, 99))
def test_coordinates_rebuild_every_task(shape, tasks, seed):
    deltas = random(tasks, *shape, seed=seed)
    basis, coordinates = aligned(deltas, 0.0)
    assert torch.allclose(basis @ coordinates, deltas, atol=1e-6)
    assert torch.allclose(basis @ coordinates.mean(0), deltas.mean(0), atol=1e-6)
    assert aligned(deltas, 1e9)[1].shape[1] == 0


def test_knots_of_one_expert_is_that_expert_and_alpha_counts_once():
    part = merge("knots_ties", density=1.0, combine="sum", scale=1.0)
    found = delta(part, ADAPTED[:1])
    product = LORA.product(ADAPTED[0].factors or {})
    assert all(torch.allclose(found[name], product[name].double(), atol=1e-5) for name in product)
    assert not any(found[name].any() for name in BASE.keys() - product.keys())
    info = part(BASE, ADAPTED, CTX).info
    assert set(info["rank"]) == {9}  # three products of rank 3, without the rounding errors


def test_knots_wants_adapted_matrices_and_nothing_else():
    part = merge("knots_ties")
    assert "choose peft=lora_all" in part.accepts(EXPERTS)
    dense = replace(ADAPTED[1], factors=None)  # as LoBAM's upload
    assert part.accepts([ADAPTED[0], dense]) is None
    assert tiny.equal(
        part(BASE, [ADAPTED[0], dense], CTX).encoder, part(BASE, ADAPTED[:2], CTX).encoder
    )
    with pytest.raises(IncompatibleWeights, match="task 'b' changed class_embedding"):
        part(BASE, [ADAPTED[0], EXPERTS[1]], CTX)


# -- LiNeS

DEEP = {f"visual.transformer.resblocks.{i}.ln_1.bias": torch.zeros(2) for i in range(3)}


def test_layers_grow_from_alpha_to_alpha_plus_beta():
    found = layer_factors([*DEEP, "proj"], 0.25, 1.5)
    assert list(found.values()) == [0.25, 1.0, 1.75, 0.25]
    assert layer_factors(["resblocks.0.w", "conv1"], 0.5, 9.0) == {
        "resblocks.0.w": 0.5,
        "conv1": 0.5,
    }
    names = [f"resblocks.{i}.w" for i in range(12)]
    assert layer_factors(names, 1.0, 1.0)["resblocks.11.w"] == 2
    assert set(layer_factors(names, 0.3, 0.0).values()) == {0.3}


def test_lines_without_growth_makes_task_arithmetic_the_average():
    found = merge("lines", beta=0.0)(BASE, EXPERTS, CTX)
    average = merge("simple_average")(BASE, EXPERTS, CTX).encoder
    assert all(torch.allclose(found.encoder[k], v, atol=1e-6) for k, v in average.items())
    assert found.info["alpha"] == pytest.approx(1 / (3 * 0.3), rel=1e-5)


@pytest.mark.parametrize("inner", ["ties", "dare_ta", "pcb", "iso_c"])
def test_lines_scales_the_layers_of_any_merge(inner):
    base = {**DEEP, "proj": torch.zeros(2, 2)}
    experts = [
        Expert(
            task,
            {k: torch.randn(v.shape, generator=generator(task, k)) for k, v in base.items()},
            task,
        )
        for task in "ab"
    ]
    plain = merge(inner, **({"density": 0.5} if inner in ("ties", "pcb") else {}))
    ctx = tiny.context(role=("merge", f"{type(plain).__module__}.{type(plain).__qualname__}"))
    before = plain(base, experts, ctx)
    part = build({**option("merge", "lines"), "inner": plain, "alpha": 0.5, "beta": 1.0}, "merge")
    after = part(base, experts, CTX)  # the inner merge draws as it does alone
    factors = {0: 0.5, 1: 1.0, 2: 1.5}
    for number, name in enumerate(DEEP):
        assert torch.allclose(
            after.encoder[name], factors[number] * before.encoder[name], atol=1e-6
        )
    assert torch.allclose(after.encoder["proj"], 0.5 * before.encoder["proj"], atol=1e-6)
    assert part.needs == plain.needs
    assert part.accepts([]) == plain.accepts([])


def test_lines_does_not_follow_a_merge_that_leaves_adapters():
    surgery = build({**option("merge", "surgery"), "images": 8}, "merge")
    assert "per-task adapters" in replace(merge("lines"), inner=surgery).accepts(EXPERTS)
    assert merge("lines").accepts(EXPERTS) is None
