"""Cross-task linearity: the numbers of the definition, on matrices made by hand and on toys."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.diagnostics.ctl import (
    COMPARISONS,
    coefficient,
    distance,
    encoder_layers,
    inner,
    linearity,
    summary,
)
from benchmark.models.heads import logits
from tests import tiny

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_numbers_of_matrices_made_by_hand():
    a = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0]])
    b = torch.tensor([[4.0, 3.0], [0.0, 1.0], [2.0, 0.0]])
    products = inner(a, b)
    assert products.tolist() == [[24, 25, 25], [2, 4, 1], [-2, 1, 4]]
    assert torch.allclose(distance(products), torch.tensor([1 / 25, 0, 0], dtype=torch.float64))
    assert coefficient(products).tolist() == [24 / 25, 2, -0.5]
    found = summary(products)
    assert found.samples == 3
    assert found.distance == pytest.approx(1 / 75)
    assert found.distance_std == pytest.approx(0.04 / math.sqrt(3))
    assert found.coefficient == pytest.approx((24 / 25 + 2 - 0.5) / 3)
    assert found.distance_whole == pytest.approx(1 - 24 / 30)
    assert found.coefficient_whole == pytest.approx(24 / 30)


def test_zero_features_and_single_samples():
    zero, one = torch.zeros(1, 2), torch.ones(1, 2)
    assert distance(inner(zero, zero)).tolist() == [0]
    assert distance(inner(zero, one)).tolist() == [1]
    assert coefficient(inner(zero, one)).tolist() == [0]
    assert math.isnan(coefficient(inner(one, zero)).item())
    assert summary(inner(one, one)).distance_std == 0


@given(SHAPES, st.floats(0.1, 10), st.integers(0, 99))
def test_scale_and_order_of_the_rest_do_not_matter(shape, scale, seed):
    a, b = normal(*shape, seed=seed), normal(*shape, seed=seed + 1)
    apart = distance(inner(a, b))
    assert apart.shape == shape[:1]
    assert ((apart >= 0) & (apart <= 1)).all()
    assert torch.allclose(distance(inner(-scale * a, b)), apart, atol=1e-6)
    assert torch.allclose(distance(inner(b, a)), apart, atol=1e-6)
    assert torch.allclose(
        coefficient(inner(a, scale * b)), coefficient(inner(a, b)) / scale, rtol=1e-4, atol=1e-6
    )
    assert torch.allclose(inner(a.flip(1), b.flip(1)), inner(a, b), atol=1e-6)


def linear(weights):
    """A model that is linear in its weights, with two layers that do not feed each other."""
    x = normal(6, 5, seed=3)
    return {"one": x @ weights["w"], "two": x[:, :2] * weights["s"]}


def toy(seed: int) -> dict[str, Tensor]:
    return {"w": normal(5, 4, seed=seed), "s": normal(2, seed=seed + 50)}


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0, 1.5])
def test_a_model_linear_in_its_weights_is_linear(alpha):
    found = linearity([linear, linear], toy(1), toy(2), alpha)
    assert found.keys() == {"one", "two"}
    for comparisons in found.values():
        assert tuple(comparisons) == COMPARISONS
        line = comparisons["line"]
        assert line.samples == 12
        assert line.distance == pytest.approx(0, abs=1e-10)
        assert line.distance_whole == pytest.approx(0, abs=1e-10)
        assert line.coefficient == pytest.approx(1, abs=1e-5)
        assert line.coefficient_std == pytest.approx(0, abs=1e-5)
        assert comparisons["ends"].distance > 0.05


def test_a_quadratic_model_gives_its_closed_form():
    """f(w) = w^2 from 0 to 2 at 1/2: A = 1, B = 2."""
    ends = {"w": torch.zeros(1)}, {"w": torch.full((1,), 2.0)}
    found = linearity([lambda weights: {"f": weights["w"].square()[None]}], *ends, 0.5)["f"]
    assert found["line"].coefficient == pytest.approx(0.5)
    assert found["line"].distance == 0
    assert found["middle_second"].coefficient == pytest.approx(0.25)
    assert found["ends"].distance == 1


def test_at_the_ends_every_model_is_linear_and_baselines_say_which_end():
    encoder, (images, _) = tiny.encoder(), tiny.split("a", "dev", 10)
    first = tiny.base()
    second = dict(tiny.random_experts(first)[0].weights)
    head = tiny.head("a")
    whole = linearity(encoder_layers(encoder, images, head), first, second, 0.0)
    assert tuple(whole) == ("block 1", "embedding", "logits")
    for layer in whole.values():
        assert layer["line"].distance == pytest.approx(0, abs=1e-6)
        assert layer["middle_first"].distance == pytest.approx(0, abs=1e-6)
        assert layer["middle_second"] == layer["ends"]
    parts = linearity(encoder_layers(encoder, images, head, batch=3), first, second, 0.0)
    for name, layer in whole.items():
        for kind, numbers in layer.items():
            assert vars(numbers) == pytest.approx(vars(parts[name][kind]), abs=1e-5)
    half = linearity(encoder_layers(encoder, images, head), first, second, 0.5)
    assert half["embedding"]["line"].distance < half["embedding"]["ends"].distance


def test_blocks_are_what_the_tower_computes():
    encoder, (images, _) = tiny.encoder(), tiny.split("a", "dev", 5)
    weights = tiny.base()
    blocks, features = encoder.blocks(weights, images)
    assert torch.equal(features, encoder(weights, images))
    (tokens,) = blocks
    assert tokens.shape == (5, 1 + (tiny.SIDE // 8) ** 2, 32)
    normed = torch.nn.functional.layer_norm(
        tokens[:, 0], (32,), weights["ln_post.weight"], weights["ln_post.bias"]
    )
    assert torch.allclose(normed @ weights["proj"], features, atol=1e-5)
    (layers,) = encoder_layers(encoder, images, tiny.head("a"))
    assert torch.equal(layers(weights)["logits"], logits(features, tiny.head("a")))
    assert encoder.forward_images + encoder.backward_images == 15
    again, _ = encoder.blocks(weights, images)
    assert len(again) == 1  # no hook was left behind
