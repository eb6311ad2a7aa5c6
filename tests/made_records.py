"""Made-up records with round numbers, for the tests of tables and reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.records import Count, Evaluation, Point, Record, Status, ThreatCounts
from benchmark.tables.hits import counted

NEEDS = {"none": "weights only", "ft": "100 dev images per task, with labels"}


def evaluation(
    key: str = "e",
    ca: tuple[int, int] = (80, 60),
    asr: int = 95,
    recall: int = 45,
    triggered: int = 10,
    flips: tuple[int, int] = (12, 2),
) -> Evaluation:
    """Two tasks of 100 images each; signs is the target task with 50 images of the target."""
    threat = ThreatCounts(
        task="signs",
        target=1,
        asr=Count(asr, 100),
        target_rate=Count(3, 100),
        target_recall=Count(recall, 50),
        triggered_acc=Count(triggered, 150),
        misclassified=Count(150 - triggered, 150),
        flipped={"digits": Count(flips[0], 80)},
        flipped_shuffled={"digits": Count(flips[1], 80)},
    )
    return Evaluation(key, {"digits": Count(ca[0], 100), "signs": Count(ca[1], 100)}, (threat,))


FLOOR = evaluation("clean", ca=(82, 62), asr=20, recall=46, triggered=100)
UNDEFENDED = evaluation("undefended")
CONTROLS = {
    "pretrained": evaluation("base", ca=(50, 40), asr=30, recall=30, triggered=60),
    "clean_merge": FLOOR,
    "defended_clean_merge": FLOOR,
    "attacker_single": evaluation("single", asr=100),
    "without_attacker": evaluation("without", ca=(80, 50), asr=18, recall=44, triggered=98),
    "undefended": UNDEFENDED,
}


def record(
    defense: str = "none",
    main: Evaluation | None = UNDEFENDED,
    *,
    seed: int = 0,
    status: Status = "done",
    reason: str | None = None,
    controls: Mapping[str, Evaluation] | None = None,
    names: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
    curve: tuple[Point, ...] = (),
) -> Record:
    """A record of one cell; without arguments, the undefended attacked merge."""
    called = {"suite": "mini_6", "attack": "badmerging_on", "merge": "task_arithmetic"}
    called |= {"defense": defense, **(names or {})}
    return Record(
        key=f"{called['attack']}-{called['merge']}-{defense}-{seed}",
        names=called,
        seed=seed,
        status=status,
        reason=reason,
        config={"seed": seed, "merge": {"values": {"scale": 0.3}}, **(config or {})},
        needs={
            "attack": "its own task's images",
            "merge": "weights only",
            "defense": NEEDS.get(defense, "100 dev images per task, no labels"),
        },
        parents={},
        main=main if status == "done" else None,
        controls={**CONTROLS, **(controls or {})} if status == "done" else {},
        info=info or {},
        provenance={"seconds": 2.5},
        curve=curve,
    )


def hits(records: Sequence[Record]) -> dict[str, dict[str, int]]:
    """Per-image hits that agree with the counts: whoever has fewer hits has them among the others'.

    Evaluations are told apart by their keys, so models with other counts need other keys.
    """
    made: dict[str, dict[str, int]] = {}
    for main in (record.main for record in records if record.main is not None):
        bits = {name: (1 << count) - 1 for name, count in counted(main).items()}
        assert made.setdefault(main.key, bits) == bits, f"two evaluations are called {main.key}"
    return made


def line(*points: tuple[float, int, int]) -> tuple[Point, ...]:
    """A curve of (s, CA in per cent, ASR in per cent)."""
    return tuple(Point(s, evaluation("line", ca=(ca, ca), asr=asr)) for s, ca, asr in points)


def demo(ft: tuple[int, int] = (90, 80), lfpm: tuple[int, int] = (80, 54)) -> list[Record]:
    """An undefended, a fine-tuned, an LFPM and a failed cell; signs' CA, ASR of ft, lfpm given."""
    tuned = evaluation("ft", ca=(80, ft[0]), asr=ft[1], recall=48, triggered=30)
    cleaned = evaluation("lfpm", ca=(78, lfpm[1]), asr=lfpm[0] // 10, recall=43, triggered=88)
    twin = {"defended_clean_merge": evaluation("twin", asr=5)}
    return [
        record(),
        record("ft", tuned, controls=twin, info={"model": {"passes": 5000, "images": 200}}),
        record("lfpm", cleaned, controls=twin),
        record("ibvs", status="failed", reason="ran out of memory | at merge_2"),
    ]
