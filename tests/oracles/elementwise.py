"""Questions about merges that work entry by entry."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from baselines.merging.adamerging import disjoint
from baselines.merging.breadcrumbs import middling
from baselines.merging.dare_ta import dropped
from baselines.merging.model_stock import ratio
from baselines.merging.simple_average import SimpleAverage
from baselines.merging.task_arithmetic import TaskArithmetic
from baselines.merging.ties import Combine, Ties, ties, trimmed
from benchmark.quantiles import kept
from benchmark.seeds import generator
from benchmark.types import Expert, Merge
from tests import tiny
from tests.oracles import cases
from tests.oracles.answering import flat, state_dicts
from tests.oracles.asking import SINGLE, Question, asked
from tests.oracles.cases import Case

FIRST = (
    "of equal magnitudes the first stay with us, whatever its sort leaves in front with the peer"
)
BINARY = "rounds down in binary, where 0.29 of 100 is 28.999...; ours keeps 29"
AT_LEAST = "keeps at least one entry; ours keeps the share that was asked for, even if it is none"
ONE_MORE = "keeps one entry more than the density says (its threshold is a >=)"
WHOLE = "cannot keep everything (there is no 0th smallest entry); ours can"
MAJORITY = "counts a sign sum of 0 as -1 if the others cancel too; ours, peft and mergekit as +1"
L1 = "restores the L1 norm of the task vector; ours divides by 1 - p as the paper does"
NEGATIVE = "extrapolates where task vectors point apart; ours counts a negative cosine as 0"
CLAMP = "bounds the product of two lengths below by 1e-6, which small tensors do not reach"
PAIR = "needs two experts; ours returns a single one as it is"
ANGLES = "averages angles where ours averages cosines; they differ from three experts on"


def of_equals(peer: str, about: str) -> str:
    """A Reason: where magnitudes are equal."""
    return FIRST if about == "equal magnitudes" else ""


def everything() -> dict[str, Tensor]:
    """Ordinary task vectors and edges."""
    return cases.vectors() | cases.edges()


def questions() -> Iterator[Question]:
    """All of this module."""
    for part in (sums, models, trimming, ties_merges, ties_of_fusion_bench, dare, breadcrumbs):
        yield from part()
    yield from model_stock()


def sums() -> Iterator[Question]:
    """Task arithmetic on vectors."""
    for scale in (1.0, 0.3):
        yield from asked(
            "task_arithmetic",
            lambda case, scale=scale: scale * case["vectors"].sum(0),
            everything(),
            ("peft", "task_arithmetic", {"scale": scale}),
            ("mergekit", "vectors", {"method": "task_arithmetic", "weight": scale}),
        )


def models() -> Iterator[Question]:
    """Whole merges on state dicts."""
    yield from asked(
        "simple_average",
        partial(merged, merge=SimpleAverage()),
        cases.models(),
        ("mergekit", "models", {"method": "linear", "weight": 1.0}),
        ("fusion_bench", "models", {"method": "simple_average", "scale": 1.0}),
    )
    yield from asked(
        "task_arithmetic",
        partial(merged, merge=TaskArithmetic(scale=0.3)),
        cases.models(),
        ("mergekit", "models", {"method": "task_arithmetic", "weight": 0.3}),
        ("fusion_bench", "models", {"method": "task_arithmetic", "scale": 0.3}),
    )
    whole = cases.models()
    large = {
        f"{about}, no scalar": {name: value for name, value in case.items() if value.ndim}
        for about, case in whole.items()
    }
    for combine in ("mean", "sum"):
        how = {"method": "ties", "weight": 1.0, "density": 0.5, "normalize": combine == "mean"}
        merge = Ties(density=0.5, trim="per_tensor", scope="visual", combine=combine, scale=1.0)
        ours, name = partial(merged, merge=merge), f"ties per tensor, {combine}"
        yield from asked(name, ours, large, ("mergekit", "models", how))
        yield from asked(name, ours, whole, ("mergekit", "models", how), because=AT_LEAST)


def merged(case: Case, merge: Merge) -> Tensor:
    """Our merge of a case of `cases.models`."""
    base, *experts = state_dicts(case)
    named = [Expert(f"task{index}", one, str(index)) for index, one in enumerate(experts)]
    return flat(merge(base, named, tiny.context()).encoder)


def reason_at(density: float, peer: str, about: str) -> str:
    """Why a peer that counts by int(density * P) and sorts in its own way differs."""
    rows = (everything() | cases.long())[about]
    count = rows.shape[1]
    if int(rows.count_nonzero(1).max()) > int(density * count) != kept(density, count):
        return BINARY
    if int(density * count) == 0 and peer == "mergekit":
        return AT_LEAST
    return of_equals(peer, about) if density < 1 else ""


def trimming() -> Iterator[Question]:
    """What both sides of TIES are made of."""
    for density in (0.2, 0.29):
        yield from asked(
            "ties, trimming",
            lambda case, d=density: torch.stack([trimmed(row, d) for row in case["vectors"]]),
            everything() | cases.long(),
            ("peft", "trimmed", {"density": density}),
            because=partial(reason_at, density),
        )
        yield from asked(
            "adamerging_pp, disjoint task vectors",
            lambda case, d=density: disjoint(case["vectors"], d),
            everything(),
            ("peft", "disjoint", {"density": density}),
            because=partial(reason_at, density),
        )


def ties_merges() -> Iterator[Question]:
    """TIES on flattened vectors, which makes a trim per tensor a global one."""
    for density in (0.2, 0.29, 0.5, 1.0):
        for combine in ("mean", "sum"):
            how = {"method": "ties", "weight": 1.0, "normalize": combine == "mean"}
            kit = ("mergekit", "vectors", {**how, "density": density})
            peft = ("peft", "ties", {"density": density})
            yield from asked(
                f"ties, {combine}",
                partial(our_ties, density=density, combine=combine),
                everything() | cases.long(),
                *((peft, kit) if combine == "mean" else (kit,)),
                because=partial(reason_at, density),
            )


def our_ties(case: Case, density: float, combine: Combine) -> Tensor:
    """Without the final scaling."""
    return ties(case["vectors"], density, combine)


def ties_of_fusion_bench() -> Iterator[Question]:
    """Its TIES, at our density that keeps as many entries as it does, and at its own."""
    few = {name: cases.vectors()[name] for name in ("reference", "normal 1x200", "normal 3x500")}
    for combine in ("mean", "sum"):
        for percent in (20, 50):
            peer = ("fusion_bench", "ties", {"percent": percent, "combine": combine})
            ours = partial(one_more, percent=percent, combine=combine)
            name = f"ties, {combine}, one entry more"
            yield from asked(name, ours, everything(), peer, because=at_a_threshold)
            same = partial(our_ties, density=percent / 100, combine=combine)
            yield from asked(f"ties, {combine}", same, few, peer, because=ONE_MORE)
        peer = ("fusion_bench", "ties", {"percent": 100, "combine": combine})
        same = partial(our_ties, density=1.0, combine=combine)
        yield from asked(f"ties, {combine}", same, few, peer, because=WHOLE)


def at_a_threshold(peer: str, about: str) -> str:
    """A Reason: where fusion-bench's threshold, or its rule for a sign sum of 0, matters."""
    return MAJORITY if about == "cancelling" else of_equals(peer, about)


def one_more(case: Case, percent: int, combine: Combine) -> Tensor:
    """TIES with floor(percent * P) + 1 entries of each task."""
    count = case["vectors"].shape[1]
    return our_ties(case, (count * percent // 100 + 1.5) / count, combine)


def dare() -> Iterator[Question]:
    """DARE with equal draws on both sides."""
    drawn = {about: with_draws(rows) for about, rows in everything().items()}
    for drop in (0.0, 0.5, 0.9):
        yield from asked(
            "dare_ta",
            lambda case, p=drop: thinned(case, p).sum(0),
            drawn,
            ("peft", "dare", {"drop": drop, "ties": False}),
            ("fusion_bench", "dropped", {"drop": drop}),
        )
        yield from asked(
            "dare_ties",
            lambda case, p=drop: ties(thinned(case, p), 1.0, "mean"),
            drawn,
            ("peft", "dare", {"drop": drop, "ties": True}),
        )
        kit = ("mergekit", "dare", {"drop": drop})
        if drop:
            yield from asked(
                "dare_ta", lambda case, p=drop: thinned(case, p).sum(0),
                {"normal 3x500": drawn["normal 3x500"]}, kit, because=L1,
            )  # fmt: skip
        ours = partial(restored, drop=drop)
        yield from asked("dare_ta, L1 norm restored", ours, drawn, kit, tolerance=SINGLE)


def with_draws(rows: Tensor) -> Case:
    """The numbers that `dropped` draws, beside the task vectors."""
    draws = [torch.rand(len(row), generator=rng(task)) for task, row in enumerate(rows)]
    return {"vectors": rows, "draws": torch.stack(draws)}


def rng(task: int) -> torch.Generator:
    """The draws of a task."""
    return generator("oracles", "dare", task)


def thinned(case: Case, drop: float) -> Tensor:
    """(T,P)"""
    return torch.stack([dropped(row, drop, rng(t)) for t, row in enumerate(case["vectors"])])


def restored(case: Case, drop: float) -> Tensor:
    """The sum of thinned task vectors, each as long as it was."""
    rows = thinned(case, drop)
    lengths = rows.abs().sum(1, keepdim=True)
    factors = case["vectors"].abs().sum(1, keepdim=True) / lengths.clamp(min=1e-300)
    return (rows * torch.where(lengths > 0, factors, 1)).sum(0)


def breadcrumbs() -> Iterator[Question]:
    """On vectors, where rows and tensors are the same."""
    for density, outliers in ((0.5, 0.1), (0.15, 0.006), (0.2, 0.0), (1.0, 0.0)):
        how = {"weight": 0.2, "density": density, "gamma": outliers}
        yield from asked(
            "breadcrumbs",
            lambda case, d=density, o=outliers: 0.2 * middling(case["vectors"], d, o).sum(0),
            everything(),
            ("mergekit", "vectors", {"method": "breadcrumbs", **how}),
            because=of_equals if density < 1 else "",
        )


def model_stock() -> Iterator[Question]:
    """Of one tensor."""
    tall = everything() | cases.alike()

    def reason(peer: str, about: str) -> str:
        rows = tall[about]
        if len(rows) == 1:
            return PAIR
        units = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)
        mean = float((units @ units.T).triu(1).sum()) / (len(rows) * (len(rows) - 1) / 2)
        return NEGATIVE if mean < 0 and about != "cancelling" else ""

    kit = ("mergekit", "vectors", {"method": "model_stock"})
    bench = ("fusion_bench", "model_stock", {})
    yield from asked("model_stock", stocked, tall, kit, because=reason)
    yield from asked("model_stock", stocked, {"tiny, 2x768": cases.tiny()}, kit, because=CLAMP)
    two, five = ({name: rows} for name, rows in cases.alike().items())
    yield from asked("model_stock", stocked, two, bench, tolerance=SINGLE)
    yield from asked("model_stock", stocked, five, bench, tolerance=SINGLE, because=ANGLES)


def stocked(case: Case) -> Tensor:
    """On a base of zeros."""
    rows = case["vectors"]
    return ratio(rows) * rows.mean(0)
