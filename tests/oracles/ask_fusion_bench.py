"""fusion-bench's answers; runs in its own environment."""

from __future__ import annotations

import torch
from fusion_bench.method import SimpleAverageAlgorithm, TaskArithmeticAlgorithm
from fusion_bench.method.adamerging.entropy_loss import entropy_loss
from fusion_bench.method.dare.utils import param_random_drop_
from fusion_bench.method.fisher_merging.fisher_merging import merging_with_fisher_weights
from fusion_bench.method.isotropic_merging import iso_utils
from fusion_bench.method.knots.knots_utils import subspace_alignment
from fusion_bench.method.model_stock.model_stock import ModelStock
from fusion_bench.method.regmean.regmean import merging_with_regmean_weights
from fusion_bench.method.task_singular_vector.utils import TSVM_utils
from fusion_bench.method.ties_merging.ties_merging_utils import ties_merging
from fusion_bench.modelpool import BaseModelPool
from fusion_bench.models.wrappers.layer_wise_fusion import LayerWiseMergedModel
from torch import Tensor, nn

from tests.oracles.answering import flat, replaced, serve, state_dicts


def module(weights: dict[str, Tensor]) -> nn.Module:
    """A module that has these parameters and does nothing."""
    return nn.ParameterDict({name: nn.Parameter(weights[name]) for name in sorted(weights)})


def pool(base: dict[str, Tensor], experts: list[dict[str, Tensor]]) -> BaseModelPool:
    """The models as fusion-bench is given them."""
    named = {f"task{index}": module(expert) for index, expert in enumerate(experts)}
    return BaseModelPool({"_pretrained_": module(base), **named})


def models(case: dict[str, Tensor], method: str, scale: float) -> Tensor:
    """State dicts, merged by a whole algorithm."""
    base, *experts = state_dicts(case)
    average = method == "simple_average"
    algorithm = SimpleAverageAlgorithm() if average else TaskArithmeticAlgorithm(scale)
    return flat(algorithm.run(pool(base, experts)).state_dict())


def ties(case: dict[str, Tensor], percent: float, combine: str) -> Tensor:
    """TIES on flattened task vectors."""
    return ties_merging(case["vectors"], reset_thresh=percent, merge_func=combine)


def dropped(case: dict[str, Tensor], drop: float) -> Tensor:
    """DARE's thinned task vectors, summed, with the case's draws in place of its own."""
    draws, total = iter(case["draws"]), torch.zeros_like(case["vectors"][0])
    with replaced(torch, "rand_like", lambda like: next(draws)):
        for row in case["vectors"]:
            param = nn.Parameter(row)
            param_random_drop_(param, drop, rescale=True)
            total += param.data
    return total


def model_stock(case: dict[str, Tensor]) -> Tensor:
    """Model Stock of one tensor, on a base of zeros."""
    rows = case["vectors"]
    experts = [{"weight": row} for row in rows]
    merged = ModelStock().run(pool({"weight": torch.zeros_like(rows[0])}, experts))
    return flat(merged.state_dict())


def regmean(case: dict[str, Tensor], off_diagonal: float) -> Tensor:
    """RegMean of one layer (in,out)."""
    params = {"layer.weight": [weight.T for weight in case["weights"]]}
    moments = [{"layer": gram} for gram in case["grams"]]
    merged = merging_with_regmean_weights(params, moments, off_diagonal, weight_transpose=True)
    return merged["layer.weight"].T


def fisher(case: dict[str, Tensor], normalise: bool, floor: float) -> Tensor:
    """Fisher merging of one tensor."""
    count = len(case["weights"])
    merged = merging_with_fisher_weights(
        {"weight": list(case["weights"])},
        [{"weight": one} for one in case["fisher"]],
        torch.ones(count, dtype=torch.float64) / count,
        normalize_fisher_weight=normalise,
        minimal_fisher_weight=floor,
    )
    return merged["weight"]


def iso_c(case: dict[str, Tensor]) -> Tensor:
    """Iso-C of one matrix."""
    return iso_utils.iso_c([{"w": one} for one in case["vectors"]], accelerator="cpu")["w"]


def iso_cts(case: dict[str, Tensor], common: float) -> Tensor:
    """Iso-CTS of one matrix."""
    rows = [{"w": one} for one in case["vectors"]]
    return iso_utils.iso_cts(rows, common_space_fraction=common, accelerator="cpu")["w"]


def tsv_m(case: dict[str, Tensor]) -> Tensor:
    """TSV-M of one matrix."""
    rows = [{"w": one} for one in case["vectors"]]
    return TSVM_utils.compute_and_sum_svd_mem_reduction(rows, accelerator="cpu")["w"]


def knots(case: dict[str, Tensor], eps: float) -> Tensor:
    """(k, m + T n): the shared basis (m,k), transposed, and the tasks' coordinates (k,n) in it."""
    basis, sizes, rows = subspace_alignment(list(case["vectors"]), eps=eps)
    return torch.cat([basis.T, *(sizes[:, None] * row for row in rows)], dim=1)


def layer_wise(case: dict[str, Tensor]) -> Tensor:
    """AdaMerging's merge and the gradient by its coefficients, one after the other."""
    names = [f"layer{index}" for index in range(len(case["base"]))]
    base = module(dict(zip(names, case["base"], strict=True)))
    tuned = [module(dict(zip(names, case["base"] + rows, strict=True))) for rows in case["vectors"]]
    model = LayerWiseMergedModel(case["coefficients"], base, tuned, clamp_weights=False)
    merged = model.merge_weights()
    pairs = zip(names, case["gradient"], strict=True)
    torch.stack([(merged[name] * slope).sum() for name, slope in pairs]).sum().backward()
    slopes = model.merge_weight.grad
    return torch.cat([flat(merged), slopes.reshape(-1)])


def entropy(case: dict[str, Tensor]) -> Tensor:
    """Mean entropy of predictions."""
    return entropy_loss(case["scores"]).reshape(1)


CALLS = [
    *(models, ties, dropped, model_stock, regmean, fisher),
    *(iso_c, iso_cts, tsv_m, knots, layer_wise, entropy),
]

if __name__ == "__main__":
    serve({call.__name__: call for call in CALLS}, "fusion-bench")
