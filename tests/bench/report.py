"""The report: every ratio, won or lost, and the goals beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.jobs import OURS

MIB = 2**20
Row = dict[str, Any]
"""`what`, `part`, `who`, and `seconds` (median), `runs`, `extra_mib`, `models` or `failed`."""


def found(rows: Sequence[Row], what: str, part: str, who: str) -> Row | None:
    """A row that has numbers."""
    for row in rows:
        if (row["what"], row["part"], row["who"]) == (what, part, who) and "seconds" in row:
            return row
    return None


def compared(rows: Sequence[Row]) -> list[Row]:
    """Per job and peer, how many times our time and memory the peer takes; below 1 we lose."""
    pairs = []
    for row in rows:
        ours = found(rows, row["what"], row["part"], OURS)
        if row["who"] == OURS or ours is None:
            continue
        pair = {"what": row["what"], "part": row["part"], "peer": row["who"]}
        if "seconds" in row:
            memory = row["extra_mib"] / max(ours["extra_mib"], 1.0)
            pair |= {"time": row["seconds"] / ours["seconds"], "memory": memory}
        else:
            pair["failed"] = row["failed"]
        pairs.append(pair)
    return pairs


def goals(rows: Sequence[Row], tasks: int) -> list[Row]:
    """The goals of the issue, with what was measured; None where a number is missing."""
    pairs = compared(rows)
    copied = found(rows, "copy", "all", OURS)
    made: list[Row] = []
    for name in ("task_arithmetic", "simple_average"):
        ours = found(rows, name, "all", OURS)
        extra = ours and ours["models"]
        made.append(_goal(f"{name}: extra memory, in models", extra, 1.2, below=True))
        # A copy reads and writes T models; a merge reads T + 1 and writes one.
        rate = ours and copied and copied["seconds"] / tasks / 2 * (tasks + 2) / ours["seconds"]
        made.append(_goal(f"{name}: share of the copy bandwidth", rate, 0.5))
    made.append(_goal("ties: times as fast as the faster peer", _least(pairs, "ties", "all"), 4.0))
    for name in ("tsv_m", "iso_c"):
        for part in ("block", "all"):
            title = f"{name}, {'one block' if part == 'block' else 'whole model'}"
            made.append(_goal(f"{title}: times as fast", _least(pairs, name, part), 2.0))
    return made


def _least(pairs: Sequence[Row], what: str, part: str) -> float | None:
    times = [p["time"] for p in pairs if (p["what"], p["part"]) == (what, part) and "time" in p]
    return min(times, default=None)


def _goal(name: str, value: float | None, bound: float, below: bool = False) -> Row:
    met = None if value is None else (value <= bound if below else value >= bound)
    return {
        "goal": name,
        "bound": f"{'at most' if below else 'at least'} {bound:g}",
        "value": value,
        "met": met,
    }


def as_markdown(report: Mapping[str, Any]) -> str:
    """For people."""
    rows, setting = report["rows"], report["setting"]
    step = found(rows, "adamerging_step", "all", OURS)
    lines = [
        "# Speed and memory of merges",
        "",
        f"`make bench{' --quick' if setting['quick'] else ''}`, {setting['rounds']} at most of "
        "each process, at commit "
        f"{str(report['commit'])[:10]}: {setting['parameters']:,} parameters of random weights, "
        f"T = {setting['tasks']}, "
        f"{setting['threads']} threads, {setting['minutes']:.0f} minutes on {setting['machine']}. "
        "Times are medians over processes that take turns; memory is what the highest resident "
        "memory adds to that of a process that has read all models. Peers: "
        f"{', '.join(setting['peers']) or 'none'}.",
        *(
            f"Measured again at commit {str(one['commit'])[:10]}, {one['rounds']} at most of each "
            f"process, {one['minutes']:.0f} minutes: {', '.join(one['merges'])}."
            for one in setting.get("again", ())
        ),
        "",
        "## Goals",
        "",
        "| goal | bound | measured | met |",
        "| --- | --- | ---: | --- |",
        *(
            f"| {one['goal']} | {one['bound']} | {_number(one['value'])} | {_met(one['met'])} |"
            for one in report["goals"]
        ),
        "",
        "## Beside peers",
        "",
        "How many times our time, and our memory, the peer takes: below 1 we lose. Ours makes "
        "every task vector in float64, adds them in a fixed order and measures the length of each "
        "on the way (`benchmark/pieces.py`); the peers add in the checkpoints' float32, in which "
        "a sum depends on its order and an expert minus its base is rounded.",
        "",
        "| merge | part | peer | time | memory |",
        "| --- | --- | --- | ---: | ---: |",
        *(
            f"| {one['what']} | {one['part']} | {one['peer']} | "
            + (f"{one['failed']} | |" if "failed" in one else _ratios(one))
            for one in report["compared"]
        ),
        "",
        "## All measurements",
        "",
        "| merge | part | who | seconds | of runs | extra MiB | in models |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
        *(
            f"| {row['what']} | {row['part']} | {row['who']} | "
            + (f"{row['failed']} | | | |" if "failed" in row else _numbers(row))
            for row in rows
        ),
        "",
    ]
    if step:
        each = step["seconds"] / setting["tasks"]
        lines += [f"A step of AdaMerging costs {each:.3f} s per task, images not counted.", ""]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _met(met: bool | None) -> str:
    return "unknown" if met is None else "yes" if met else "no"


def _ratios(pair: Row) -> str:
    return f"{pair['time']:.2f} | {pair['memory']:.2f} |"


def _numbers(row: Row) -> str:
    return f"{row['seconds']:.3f} | {row['runs']} | {row['extra_mib']:.0f} | {row['models']:.2f} |"
