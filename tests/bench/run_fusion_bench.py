"""fusion-bench's merges, measured in its own environment: whole algorithms on a pool of modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from fusion_bench.method import (
    DareTaskArithmetic,
    SimpleAverageAlgorithm,
    TaskArithmeticAlgorithm,
    TiesMergingAlgorithm,
)
from fusion_bench.method.dare.ties_merging import DareTiesMerging
from fusion_bench.method.isotropic_merging.iso_utils import iso_c, iso_cts
from fusion_bench.method.knots.knots_utils import subspace_alignment
from fusion_bench.method.model_stock.model_stock import ModelStock
from fusion_bench.method.task_singular_vector.utils.TSVM_utils import (
    compute_and_sum_svd_mem_reduction,
)
from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging
from fusion_bench.modelpool import BaseModelPool
from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel
from fusion_bench.utils.state_dict_arithmetic import (
    state_dict_add,
    state_dict_mul,
    state_dict_sub,
)
from torch import Tensor, nn

from tests.bench.timing import Run, Weights, serve

TIES = {"scaling_factor": 0.3, "threshold": 20, "remove_keys": [], "merge_func": "sum"}
DARE = {"sparsity_ratio": 0.5, "only_on_linear_weights": False, "rescale": True}


def module(weights: Weights) -> nn.Module:
    """A module with these very tensors as its parameters."""
    return nn.ParameterDict(
        {name.replace(".", "/"): nn.Parameter(value) for name, value in sorted(weights.items())}
    )


def pooled(algorithm: Callable[[], Any]) -> Run:
    """An algorithm on a pool, which hands out the modules it was given, without a copy."""

    def prepare(base: Weights, experts: list[Weights]) -> Callable[[], Any]:
        def run() -> Any:
            tuned = {f"task{index}": module(one) for index, one in enumerate(experts)}
            return algorithm().run(BaseModelPool({"_pretrained_": module(base), **tuned}))

        return run

    return prepare


def by_matrix(merge: Callable[[list[Weights]], Weights]) -> Run:
    """A function of task vectors, with the subtraction before and the addition after it."""

    def prepare(base: Weights, experts: list[Weights]) -> Callable[[], Any]:
        def run() -> Any:
            with torch.no_grad():
                merged = merge([state_dict_sub(one, base) for one in experts])
                return state_dict_add(base, state_dict_mul(merged, 0.3))

        return run

    return prepare


def knots_ties(base: Weights, experts: list[Weights]) -> Callable[[], Any]:
    """Shared bases of the matrices (q, k and v apart), and TIES on all coordinates."""

    def run() -> list[Tensor]:
        with torch.no_grad():
            pairs, rows = [], []
            for name in base:
                deltas = [one[name] - base[name] for one in experts]
                parts = 3 if name.endswith("in_proj_weight") else 1
                for some in zip(*(delta.chunk(parts) for delta in deltas), strict=True):
                    basis, sizes, vectors = subspace_alignment(list(some), eps=1e-5)
                    pairs.append((basis, vectors[0].shape))
                    rows.append(torch.stack([(sizes[:, None] * v).flatten() for v in vectors]))
            merged = ties_merging(torch.cat(rows, 1), reset_thresh=20, merge_func="mean")
            split = merged.split([one.shape[1] for one in rows])
            return [b @ part.view(shape) for (b, shape), part in zip(pairs, split, strict=True)]

    return run


def adamerging_step(base: Weights, experts: list[Weights]) -> Callable[[], Tensor]:
    """One step of layer-wise AdaMerging without the images: a backward pass for every task.

    The experts' weights stand in for the tasks' gradients by the merged weights.
    """
    tuned = [module({name: value.clone() for name, value in one.items()}) for one in experts]
    coefficients = torch.full((len(experts), len(base)), 0.3)
    model = LayerWiseMergedModel(coefficients, module(base), tuned, clamp_weights=False)
    gradients = [[one[name] for name in sorted(one)] for one in experts]

    def step() -> Tensor:
        model.merge_weight.grad = None
        merged = model.merge_weights()
        leaves = [merged[name] for name in sorted(merged)]
        for gradient in gradients:
            torch.autograd.backward(leaves, gradient, retain_graph=True)
        assert model.merge_weight.grad is not None
        return model.merge_weight.grad

    return step


if __name__ == "__main__":
    serve(
        {
            "simple_average": pooled(SimpleAverageAlgorithm),
            "task_arithmetic": pooled(lambda: TaskArithmeticAlgorithm(0.3)),
            "ties": pooled(lambda: TiesMergingAlgorithm(**TIES)),
            "dare_ta": pooled(lambda: DareTaskArithmetic(scaling_factor=0.3, **DARE)),
            "dare_ties": pooled(lambda: DareTiesMerging(**DARE, **TIES)),
            "model_stock": pooled(ModelStock),
            "tsv_m": by_matrix(
                lambda taus: compute_and_sum_svd_mem_reduction(taus, accelerator="cpu")
            ),
            "iso_c": by_matrix(lambda taus: iso_c(taus, accelerator="cpu")),
            "iso_cts": by_matrix(lambda taus: iso_cts(taus, 0.8, accelerator="cpu")),
            "knots_ties": knots_ties,
            "adamerging_step": adamerging_step,
        }
    )
