"""peft's answers; runs in its own environment."""

from __future__ import annotations

import warnings

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import merge_utils
from torch import Tensor, nn

from tests.oracles.answering import replaced, serve


def weights(rows: Tensor, scale: float = 1.0) -> Tensor:
    """One weight per task."""
    return torch.full((len(rows),), scale, dtype=rows.dtype)


def task_arithmetic(case: dict[str, Tensor], scale: float) -> Tensor:
    """Weighted sum."""
    rows = case["vectors"]
    return merge_utils.task_arithmetic(list(rows), weights(rows, scale))


def ties(case: dict[str, Tensor], density: float) -> Tensor:
    """TIES with a mean, on one tensor."""
    rows = case["vectors"]
    return merge_utils.ties(list(rows), weights(rows), density)


def trimmed(case: dict[str, Tensor], density: float) -> Tensor:
    """The trimmed task vectors (T,P)."""
    return torch.stack([merge_utils.prune(row, density, "magnitude") for row in case["vectors"]])


def disjoint(case: dict[str, Tensor], density: float) -> Tensor:
    """The trimmed task vectors (T,P) where they agree with the elected sign, 0 elsewhere."""
    rows = trimmed(case, density)
    return rows * merge_utils.calculate_majority_sign_mask(rows)


def dare(case: dict[str, Tensor], drop: float, ties: bool) -> Tensor:
    """DARE with the case's uniform draws in place of peft's own."""
    rows, draws = case["vectors"], iter(case["draws"])

    def drawn(chances: Tensor) -> Tensor:
        return (next(draws) >= drop).to(chances)

    merge = merge_utils.dare_ties if ties else merge_utils.dare_linear
    with replaced(torch, "bernoulli", drawn):
        return merge(list(rows), weights(rows), 1 - drop)


class Layer(nn.Module):
    """A model of one linear layer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        self.layer.weight.data.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N,in) -> (N,out)."""
        return self.layer(x)


def lora(case: dict[str, Tensor], alpha: float, scale: float, how: str) -> Tensor:
    """The layer's weight with the tasks' adapters combined, times a scale each."""
    rank = case["A"].shape[1]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"], lora_dropout=0.0)
    names = [f"task{index}" for index in range(len(case["A"]))]
    model = get_peft_model(Layer(case["weight"]), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    layer = model.base_model.model.layer
    for index, name in enumerate(names):
        layer.lora_A[name].weight.data = case["A"][index]
        layer.lora_B[name].weight.data = case["B"][index]
    total = rank * len(names)
    extra = {} if how == "cat" else {"svd_rank": total}
    scales = [scale] * len(names)
    model.add_weighted_adapter(names, scales, "merged", combination_type=how, **extra)
    model.set_adapter("merged")
    return model.merge_and_unload().layer.weight


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # a density of 1 is asked for on purpose
    calls = {"task_arithmetic": task_arithmetic, "ties": ties, "trimmed": trimmed}
    serve({**calls, "disjoint": disjoint, "dare": dare, "lora": lora}, "peft")
