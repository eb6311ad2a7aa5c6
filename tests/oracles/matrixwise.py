"""Questions about merges that work on matrices, or need more than task vectors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from baselines.merging.adamerging import combined, projected
from baselines.merging.fisher import unit, weighted_mean
from baselines.merging.iso_c import iso_c
from baselines.merging.iso_cts import iso_cts
from baselines.merging.knots_ties import aligned
from baselines.merging.regmean import regmean, shrunk
from baselines.merging.task_arithmetic import TaskArithmetic
from baselines.merging.ties import ties
from baselines.merging.tsv_m import tsv_m
from benchmark.models.lora import Lora
from benchmark.optimisation.shared_risk import entropy
from benchmark.types import Expert
from tests import tiny
from tests.oracles import cases
from tests.oracles.answering import flat
from tests.oracles.asking import SINGLE, SPECTRAL, Question, asked
from tests.oracles.cases import Case

ARBITRARY = "lifts null directions to the mean, along arbitrary vectors; ours leaves them 0"
DEPENDENT = "fills dependent directions arbitrarily; ours leaves them out"
ERASED = "keeps floor(r/T) = 0 triplets and erases the matrix; ours keeps one of each task"
BEYOND = "rounds the tasks' directions up beyond the rank and fails; ours never does"
SINGULAR = "inverts a singular matrix; ours has a ridge, and averages what no input reaches"
FLOOR = "adds the floor in raw units; ours is a bound, in units of a task's root mean square"
ADAPTED = "x.mlp.c_fc.weight"
ALPHA = 6.0


def questions() -> Iterator[Question]:
    """All of this module."""
    for part in (regressed, fishers, spectral, knots, adamerging, lora):
        yield from part()


def regressed() -> Iterator[Question]:
    """RegMean of one layer."""
    for share in (0.0, 0.1, 0.95, 1.0):
        peer = ("fusion_bench", "regmean", {"off_diagonal": share})
        yield from asked(
            "regmean", partial(our_regmean, share=share, ridge=0.0), cases.grams(), peer,
            tolerance=SINGLE,
        )  # fmt: skip
        dead = {"an input that is always 0": cases.singular_gram()}
        ours = partial(our_regmean, share=share, ridge=1e-6)
        yield from asked("regmean", ours, dead, peer, tolerance=SINGLE, because=SINGULAR)


def our_regmean(case: Case, share: float, ridge: float) -> Tensor:
    """(in,out)."""
    return regmean(case["weights"].unbind(), [shrunk(g, share) for g in case["grams"]], ridge)


def fishers() -> Iterator[Question]:
    """Fisher merging, given the diagonals."""
    for normalise in (True, False):
        yield from asked(
            "fisher, given the diagonals",
            partial(our_fisher, normalise=normalise, floor=0.0),
            cases.fishers(),
            ("fusion_bench", "fisher", {"normalise": normalise, "floor": 0.0}),
        )
    flat_ones = {
        f"{about}, diagonals of 1e-6": {**case, "fisher": case["fisher"] * 1e-6}
        for about, case in cases.fishers().items()
    }
    yield from asked(
        "fisher, given the diagonals",
        partial(our_fisher, normalise=True, floor=1e-6),
        flat_ones,
        ("fusion_bench", "fisher", {"normalise": True, "floor": 1e-6}),
        because=FLOOR,
    )


def our_fisher(case: Case, normalise: bool, floor: float) -> Tensor:
    """(P,)."""
    sizes = [unit({"w": one}) if normalise else 1.0 for one in case["fisher"]]
    scaled = case["fisher"] / torch.tensor(sizes, dtype=torch.float64)[:, None]
    return weighted_mean(case["weights"], scaled.clamp(floor))


def spectral() -> Iterator[Question]:
    """TSV-M, Iso-C and Iso-CTS of one matrix."""
    full, low = cases.matrices(), {"rank 2, 3x24x18": cases.low_rank()}
    equal = {"identical, 3x24x24": full["2x24x24"][:1].repeat(3, 1, 1)}
    many = {"more tasks than the rank, 5x3x40": full["5x33x21"][:, :3]}
    few = {"no common directions, 3x5x40": full["3x16x40"][:, :5]}
    peer = ("fusion_bench", "tsv_m", {})
    ours = lambda case: tsv_m(case["vectors"])  # noqa: E731
    yield from asked("tsv_m", ours, full, peer, tolerance=SPECTRAL)
    yield from asked("tsv_m", ours, low | equal, peer, tolerance=SPECTRAL, because=DEPENDENT)
    yield from asked("tsv_m", ours, many, peer, tolerance=SPECTRAL, because=ERASED)
    peer = ("fusion_bench", "iso_c", {})
    ours = lambda case: iso_c(case["vectors"])  # noqa: E731
    yield from asked("iso_c", ours, full | equal, peer, tolerance=SPECTRAL)
    yield from asked("iso_c", ours, low, peer, tolerance=SPECTRAL, because=ARBITRARY)
    for common in (0.8, 0.5, 1.0):
        peer = ("fusion_bench", "iso_cts", {"common": common})
        ours = partial(our_iso_cts, common=common)
        yield from asked("iso_cts", ours, full, peer, tolerance=SPECTRAL)
        yield from asked("iso_cts", ours, low, peer, tolerance=SPECTRAL, because=ARBITRARY)
    peer, ours = ("fusion_bench", "iso_cts", {"common": 0.0}), partial(our_iso_cts, common=0.0)
    yield from asked("iso_cts", ours, few, peer, tolerance=SPECTRAL, because=BEYOND)


def our_iso_cts(case: Case, common: float) -> Tensor:
    """(m,n)."""
    return iso_cts(case["vectors"], common)


def knots() -> Iterator[Question]:
    """The shared basis (its signs are free), by what it gives back, alone and behind TIES."""
    over = {**cases.matrices(), "rank 2, 3x24x18": cases.low_rank()}
    peer = ("fusion_bench", "knots", {"eps": 1e-5})
    for name, density in (("knots_ties, basis", None), ("knots_ties", 0.2)):
        yield from asked(
            name,
            lambda case, d=density: taken_back(*aligned(case["vectors"], 1e-5), d),
            over,
            peer,
            tolerance=SPECTRAL,
            settle=lambda answer, case, d=density: taken_back(*unpacked(answer, case), d),
        )


def unpacked(answer: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """Basis (m,k) and coordinates (T,k,n) of fusion-bench's answer."""
    tasks, rows, columns = case["vectors"].shape
    return answer[:, :rows].T, answer[:, rows:].view(-1, tasks, columns).transpose(0, 1)


def taken_back(basis: Tensor, coordinates: Tensor, density: float | None) -> Tensor:
    """What the basis makes of the coordinates (T,k,n): T matrices, or their TIES merge."""
    if density is None:
        return basis @ coordinates
    return basis @ ties(coordinates.flatten(1), density, "mean").view(coordinates.shape[1:])


def adamerging() -> Iterator[Question]:
    """One step's merge, the gradient by its coefficients, and the loss."""
    peer = ("fusion_bench", "layer_wise", {})
    yield from asked("adamerging, a step's merge and gradient", step, cases.layers(), peer)
    over = {about: {"scores": rows} for about, rows in cases.scores().items()}
    peer = ("fusion_bench", "entropy", {})
    ours = lambda case: entropy(case["scores"]).mean()[None]  # noqa: E731
    yield from asked("adamerging, entropy", ours, over, peer, tolerance=SINGLE)


def step(case: Case) -> Tensor:
    """Merged weights, then dL/dλ (T,L) for L = <gradient, merged weights>."""
    names = [f"layer{index}" for index in range(len(case["base"]))]
    base = dict(zip(names, case["base"], strict=True))
    vectors = dict(zip(names, case["vectors"].unbind(1), strict=True))
    slopes = projected(vectors, dict(zip(names, case["gradient"], strict=True)))
    merged = combined(base, vectors, case["coefficients"])
    return torch.cat([flat(merged), slopes.reshape(-1)])


def lora() -> Iterator[Question]:
    """Task arithmetic of LoRA experts, in weights with us, in factors with peft."""
    for how, tolerance in (("cat", SINGLE), ("svd", SINGLE)):
        values = {"alpha": ALPHA, "scale": 0.3, "how": how}
        yield from asked(
            "task_arithmetic of LoRA experts", our_lora, cases.adapters(),
            ("peft", "lora", values), tolerance=tolerance,
        )  # fmt: skip


def our_lora(case: Case) -> Tensor:
    """(out,in)."""
    part = Lora(targets="mlp", rank=case["A"].shape[1], alpha=ALPHA, lr=1e-3)
    base = {ADAPTED: case["weight"]}
    experts = []
    for index, (a, b) in enumerate(zip(case["A"], case["B"], strict=True)):
        factors = {f"{ADAPTED}/A": a[None], f"{ADAPTED}/B": b[None]}
        experts.append(Expert(f"task{index}", part.weights(base, factors), "", factors))
    return TaskArithmetic(scale=0.3)(base, experts, tiny.context()).encoder[ADAPTED]
