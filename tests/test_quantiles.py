"""Order statistics: exact, whatever the numbers and however they are cut."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import quantiles
from benchmark.quantiles import Ranked, nth_smallest
from benchmark.seeds import generator


def expected(values: torch.Tensor, rank: int) -> list[Ranked]:
    ranked = values.sort(dim=1).values[:, rank]
    larger, equal = ((values > ranked[:, None]).sum(1), (values == ranked[:, None]).sum(1))
    columns = (column.tolist() for column in (ranked, larger, equal))
    return [Ranked(*row) for row in zip(*columns, strict=True)]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 3),
    st.integers(1, 40),
    st.integers(0, 10),
    st.sampled_from([4, 16, 64]),
    st.data(),
)
def test_any_rank_of_any_rows(count, tasks, cut, spread, sample, data):
    seed = data.draw(st.integers(0, 1000))
    values = torch.randn(tasks, count, generator=generator(seed), dtype=torch.float64)
    if spread:  # few different numbers, so that many are equal
        values = (values * spread).round()
    rank = data.draw(st.integers(0, count - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantiles, "SAMPLE", sample)
        found = nth_smallest(lambda: iter(values.split(cut, dim=1)), count, rank)
        rows = nth_smallest(lambda: map(list, values.split(cut, dim=1)), count, rank)
        thin = nth_smallest(
            lambda: iter(values.split(cut, dim=1)), count, rank, lambda step: [values[:, ::step]]
        )
    assert found == rows == thin == expected(values, rank)


@pytest.mark.parametrize("order", ["sorted", "falling", "constant", "mostly zero", "two lumps"])
def test_orders_that_mislead_a_sample(order):
    values = torch.randn(2, 200_000, generator=generator("many"), dtype=torch.float64)
    made = {
        "sorted": values.sort(dim=1).values,
        "falling": values.sort(dim=1, descending=True).values,
        "constant": torch.ones_like(values),
        "mostly zero": values * (values > 2),
        "two lumps": torch.cat([values[:, :65_537] - 99, values[:, 65_537:]], dim=1),
    }[order]
    calls = 0

    def parts():
        nonlocal calls
        calls += 1
        return iter(made.split(7_000, dim=1))

    for rank in (0, 20, 65_536, 65_537, 160_000, 199_999):
        calls = 0
        assert nth_smallest(parts, 200_000, rank) == expected(made, rank)
        assert calls <= 4


def test_parts_are_let_go_of():
    """Whatever is kept of a part must not keep the part: eight experts are 5.6 GB as float64."""
    alive: list[weakref.ref] = []

    def parts():
        for start in range(4):
            numbers = np.random.default_rng(start).standard_normal((2, 2**17))
            alive.append(weakref.ref(numbers))
            yield torch.from_numpy(numbers)
            del numbers
            assert sum(one() is not None for one in alive) <= 2  # this one and the last

    nth_smallest(parts, 4 * 2**17, 99_999)
    assert len(alive) == 8
    assert not any(one() is not None for one in alive)
