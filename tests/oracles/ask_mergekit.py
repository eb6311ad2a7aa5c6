"""mergekit's answers; runs in its own environment."""

from __future__ import annotations

from typing import Any

import torch
from mergekit.merge_methods import merge_state_dicts, merge_tensors
from torch import Tensor

from tests.oracles.answering import flat, replaced, serve, state_dicts


def vectors(case: dict[str, Tensor], method: str, **parameters: Any) -> Tensor:
    """Task vectors merged as one tensor, on a base of zeros."""
    rows = case["vectors"]
    base = torch.zeros_like(rows[0])
    return merge_tensors([base, *rows], method, parameters=parameters, base_index=0)


def dare(case: dict[str, Tensor], drop: float) -> Tensor:
    """DARE with the case's uniform draws in place of mergekit's own."""
    draws = iter(case["draws"])

    def drawn(chances: Tensor) -> Tensor:
        return (next(draws) >= drop).to(chances)

    with replaced(torch, "bernoulli", drawn):
        return vectors(case, "dare_linear", weight=1.0, density=1 - drop)


def models(case: dict[str, Tensor], method: str, **parameters: Any) -> Tensor:
    """State dicts merged tensor by tensor; `linear` has no base."""
    base, *experts = state_dicts(case)
    if method == "linear":
        return flat(merge_state_dicts(experts, method, parameters=parameters))
    return flat(merge_state_dicts([base, *experts], method, parameters=parameters, base=0))


if __name__ == "__main__":
    serve({"vectors": vectors, "models": models, "dare": dare}, "mergekit")
