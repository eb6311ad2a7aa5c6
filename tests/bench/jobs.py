"""What is measured, in the order in which time is spent."""

from __future__ import annotations

from dataclasses import dataclass

OURS, BENCH, KIT = "ours", "fusion_bench", "mergekit"
BOTH, MATRIX = (OURS, BENCH, KIT), (OURS, BENCH)


@dataclass(frozen=True)
class Job:
    """One thing that several do.

    Attributes:
        what: a key of the runners' dictionaries.
        part: of the state dict, a key of `timing.PARTS`.
        who: who has it; they take turns, once in every round.
        rounds: processes for each.
        calls: calls in a process; where there are several, the first is a warm-up.
    """

    what: str
    part: str
    who: tuple[str, ...]
    rounds: int = 3
    calls: int = 3


JOBS = (
    Job("copy", "all", (OURS,), calls=6),
    Job("simple_average", "all", BOTH),
    Job("task_arithmetic", "all", BOTH),
    Job("ties", "all", BOTH, calls=2),
    Job("ties_per_tensor", "all", (OURS, KIT), calls=2),
    Job("dare_ta", "all", BOTH, calls=2),
    Job("dare_ties", "all", BOTH, calls=2),
    Job("breadcrumbs", "all", (OURS, KIT), calls=2),
    Job("model_stock", "all", BOTH, calls=2),
    Job("consensus", "all", (OURS,)),
    Job("lines", "all", (OURS,)),
    Job("pcb", "all", (OURS,), calls=2),
    Job("adamerging_step", "all", MATRIX),
    Job("iso_c", "block", MATRIX, calls=1),
    Job("tsv_m", "block", MATRIX, calls=1),
    Job("iso_cts", "block", MATRIX, rounds=1, calls=1),
    Job("knots_ties", "attention", MATRIX, rounds=1, calls=1),
    Job("iso_c", "all", MATRIX, rounds=1, calls=1),
    Job("tsv_m", "all", MATRIX, rounds=1, calls=1),
    Job("iso_cts", "all", (OURS,), rounds=1, calls=1),
)
