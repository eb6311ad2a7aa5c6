"""Tables that are not whole say so: planned cells against the records that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark import results
from benchmark.committed import RESULTS
from benchmark.records import Record, read, write
from benchmark.tables import Plan, compared, make, render, unfinished
from tests.made_records import evaluation, record

NAMES = {"suite": "mini", "attack": "badmerging_on", "merge": "task_arithmetic"}


def planned(defense: str, seed: int = 0, setting: str = "", **names: str) -> dict[str, Any]:
    return {**NAMES, **names, "defense": defense, "seed": seed, "setting": setting}


def cell(defense: str, seed: int = 0, target: int | None = None, **names: str) -> Record:
    attack = {} if target is None else {"attack": {"adversary": "flags", "target": target}}
    main = evaluation(f"{defense} {seed} {target}")
    return record(defense, main, seed=seed, names={**NAMES, **names}, config=attack)


def said(plan: Plan) -> str:
    return unfinished(plan, over_settings=False)


def test_cells_are_matched_by_names_setting_and_seed() -> None:
    plan = [planned("ft", seed) for seed in (0, 1)] + [planned("lfpm", setting="flags 1")]
    made = [cell("ft"), cell("ft", 2), cell("lfpm", target=2), cell("lfpm", target=1)]
    assert compared(plan, made).absent == (plan[1],)
    assert compared(plan, [*made, cell("ft", 1)]).absent == ()


def test_cells_that_share_all_these_count_by_their_number() -> None:
    """Three patch sizes, say: which is which is told by values that a record may have otherwise."""
    plan = [planned("ft")] * 3
    assert len(compared(plan, [cell("ft")] * 2).absent) == 1
    assert compared(plan, [cell("ft")] * 4).absent == ()


def test_what_is_missing_is_said_by_the_names_that_tell_it() -> None:
    plan = [planned(name, seed) for name in ("none", "ft", "sau") for seed in (0, 1)]
    assert said(compared(plan, [cell("none"), cell("none", 1), cell("ft")])) == (
        "Not whole: 3 of 6 planned cells have a record; rows without any: sau."
    )
    more = [*plan, *(planned(name, merge="ties") for name in ("none", "ft"))]
    assert said(compared(more, [cell("none", merge="ties")])).endswith(
        "1 of 8 planned cells have a record; rows without any: task_arithmetic: all; ties: ft."
    )
    wide = [planned(name, merge=merge) for merge in "abc" for name in ("none", "ft", "sau")]
    there = [cell("none", merge=merge) for merge in "abc"]
    assert said(compared(wide, there)).endswith("any: ft, sau.")
    assert said(compared(wide, [*there, cell("ft", merge="b")])).endswith("a, c: ft, sau; b: sau.")
    one = [planned("none", seed) for seed in (0, 1, 2)]
    assert said(compared(one, [cell("none")])) == ("Not whole: 1 of 3 planned cells have a record.")
    assert said(compared(plan[:1], [cell("none"), cell("none", 1)])) == ""
    assert said(Plan()) == ""


def test_a_table_over_settings_says_at_how_many_it_is() -> None:
    plan = [
        planned(name, setting=f"flags {at}", attack=attack)
        for name in ("none", "lfpm", "ft")
        for at in range(3)
        for attack in ("badmerging_on", "dormant")
    ]
    made = [cell(name, target=at) for name in ("none", "lfpm") for at in range(2)]
    assert unfinished(compared(plan, made), over_settings=True) == (
        "Not whole: 4 of 18 planned cells have a record, at 2 of 6 settings; rows without any: ft."
    )


def test_the_caption_says_it_and_is_silent_where_all_is_there() -> None:
    plan = [planned("none", suite="mini_6"), planned("ft", suite="mini_6")]
    sentence = "Not whole: 1 of 2 planned cells have a record; rows without any: ft."
    made = [record("none")]
    assert sentence in render(make("demo", made, plan=compared(plan, made)), "md")
    assert "Not whole" not in render(make("demo", made, plan=compared(plan[:1], made)), "md")
    assert "Not whole" not in render(make("demo", made), "md")


def demo_without(folder: Path, defense: str) -> list[Path]:
    for path in (RESULTS / "demo/records").glob("*.json"):
        if (one := read(path)).names["defense"] != defense:
            write(folder / "demo" / "records", one)
    return [folder]


def test_folders_of_records_are_compared_with_the_experiments(tmp_path: Path) -> None:
    words = [f"store={tmp_path / 'store'}"]
    folders = demo_without(tmp_path, "lfpm")
    text = results.tables("demo", words, ["md"], folders, partial=False)["md"]
    assert "Not whole: 4 of 5 planned cells have a record; rows without any: lfpm." in text
    assert "| lfpm " not in text
    (own,) = ([one / "demo"] for one in folders)
    assert "Not whole" not in results.tables("demo", words, ["md"], own, partial=False)["md"]
    text = results.tables("demo", words, ["md"], folders, partial=True)["md"]
    (line,) = (one for one in text.splitlines() if one.startswith("| lfpm "))
    assert "not run yet: seed 0" in line
    # Its seeds 1 and 2 are more than the experiment plans.
    whole = results.tables("demo", words, ["md"], [RESULTS], partial=True)["md"]
    assert "Not whole" not in whole
    assert "not run yet" not in whole
    asked = results.tables("demo", [*words, "seed=0,1,2,3"], ["md"], [RESULTS], partial=False)["md"]
    assert "Not whole: 15 of 20 planned cells have a record." in asked
