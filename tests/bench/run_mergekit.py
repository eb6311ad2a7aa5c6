"""mergekit's merges, measured in its own environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mergekit.merge_methods import merge_state_dicts

from tests.bench.timing import Run, Weights, serve


def merge(method: str, **parameters: Any) -> Run:
    """A method with its base; `linear` has none."""

    def prepare(base: Weights, experts: list[Weights]) -> Callable[[], Any]:
        models, start = (experts, None) if method == "linear" else ([base, *experts], 0)

        def run() -> Any:
            with torch.no_grad():
                return merge_state_dicts(models, method, parameters=parameters, base=start)

        return run

    return prepare


TIES = {"weight": 1.0, "density": 0.2, "normalize": False, "lambda": 0.3}
CRUMBS = {"weight": 0.3, "density": 0.15, "gamma": 0.006}

if __name__ == "__main__":
    serve(
        {
            "simple_average": merge("linear", weight=1.0),
            "task_arithmetic": merge("task_arithmetic", weight=0.3),
            "ties": merge("ties", **TIES),
            "ties_per_tensor": merge("ties", **TIES),
            "dare_ta": merge("dare_linear", weight=0.3, density=0.5),
            "dare_ties": merge("dare_ties", weight=1.0, density=0.5, **{"lambda": 0.3}),
            "breadcrumbs": merge("breadcrumbs", **CRUMBS),
            "model_stock": merge("model_stock"),
        }
    )
