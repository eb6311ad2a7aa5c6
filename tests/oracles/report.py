"""The committed report: what was compared with what, and how it came out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tests.oracles.asking import Answered, Verdict

VERDICTS: tuple[Verdict, ...] = ("agrees", "explained", "disagrees", "reason out of date")
BAD: frozenset[Verdict] = frozenset({"disagrees", "reason out of date"})
WITHOUT = {
    "consensus, pcb, lines": "no package has them (fusion-bench's TALL masks are not the "
    "published ones); their reference vectors and invariants are tests/test_free_merges.py",
    "fisher's diagonals": "fusion-bench computes them inside a run on CLIP; the definition, "
    "by autograd on one image and class at a time, is tests/test_data_merges.py",
    "adamerging's steps, surgery": "fusion-bench runs them on downloaded CLIP models only; a "
    "step's merge, gradient and loss are compared above, the rest is tests/test_data_merges.py",
    "fusion-bench's TALL masks, Model Stock beyond two experts, DARE-TIES; mergekit's DARE; "
    "peft's `linear` on factors": "no oracles: they compute something else by their own choice",
}
"""Method -> why no package is asked about it, and what stands in."""

Row = dict[str, Any]


def rows(answered: Iterable[Answered]) -> list[Row]:
    """One row per method, peer, tolerance and reason, in order of first appearance."""
    groups: dict[tuple[str, str, str], list[Answered]] = {}
    for one in answered:
        key = one.question.method, one.question.peer, one.question.because
        groups.setdefault(key, []).append(one)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Answered]) -> Row:
    first = group[0].question
    numbers = [one.difference for one in group if not math.isnan(one.difference)]
    verdict = max((one.verdict for one in group), key=VERDICTS.index)
    return {
        "method": first.method,
        "peer": first.peer,
        "inputs": len(group),
        "largest": max(numbers) if numbers else None,
        "tolerance": first.tolerance,
        "verdict": verdict,
        "because": first.because,
        "said": sorted({one.said for one in group if one.said}),
        "worst": [one.question.id for one in group if one.verdict in BAD],
    }


def as_json(answered: Sequence[Answered], told: Mapping[str, Any]) -> dict[str, Any]:
    """The report as plain JSON; `told` has the versions, the commit and the inputs' hash."""
    found = rows(answered)
    count = {name: sum(one.verdict == name for one in answered) for name in VERDICTS}
    return {
        **told,
        "questions": len(answered),
        "verdicts": count,
        "rows": found,
        "without": WITHOUT,
    }


def as_markdown(report: Mapping[str, Any]) -> str:
    """The same for people."""
    agree = [row for row in report["rows"] if not row["because"]]
    differ = [row for row in report["rows"] if row["because"]]
    versions = [
        f"- {peer}: {', '.join(f'{name} {number}' for name, number in found.items())}"
        for peer, found in report["versions"].items()
    ]
    counts = ", ".join(f"{count} {name}" for name, count in report["verdicts"].items() if count)
    return "\n".join(
        [
            "# Our merges beside packages that we did not write",
            "",
            f"`make oracles` at commit {str(report['commit'])[:10]}: "
            f"{report['questions']} questions, {counts}. Differences are the largest of any entry, "
            "relative to the largest number of our answer; inputs and answers are float64. "
            "What the peers answered is in `answers.safetensors`, and `make test` compares with it "
            "every time.",
            "",
            *versions,
            "",
            "## Where the answers must agree",
            "",
            "| method | peer | inputs | largest difference | tolerance | verdict |",
            "| --- | --- | ---: | ---: | ---: | --- |",
            *(
                f"| {row['method']} | {row['peer']} | {row['inputs']} | {_number(row['largest'])} "
                f"| {row['tolerance']:.0e} | {row['verdict']}{_tail(row)} |"
                for row in agree
            ),
            "",
            "## Where they must differ, and why",
            "",
            "Each reason is a choice that a docstring of ours states, or a limit of the peer. If "
            "such answers agreed, the reason would be out of date and `make oracles` would fail.",
            "",
            "| method | peer | inputs | difference, up to | the peer | verdict |",
            "| --- | --- | ---: | ---: | --- | --- |",
            *(
                f"| {row['method']} | {row['peer']} | {row['inputs']} | {_number(row['largest'])} "
                f"| {row['because']} | {row['verdict']}{_tail(row)} |"
                for row in differ
            ),
            "",
            "## What is not compared",
            "",
            *(f"- {method}: {why}." for method, why in report["without"].items()),
            "",
        ]
    )


def _number(value: float | None) -> str:
    return "no answer" if value is None else "0" if value == 0 else f"{value:.1e}"


def _tail(row: Row) -> str:
    """Which questions went wrong."""
    return f": {'; '.join([*row['worst'], *row['said']])}" if row["verdict"] in BAD else ""
