"""What a check found, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Grade = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        grade: an error keeps a run from starting; a warning does not.
        what: what was looked at and what it is like.
        fix: what to do; empty where nothing is to be done.
    """

    grade: Grade
    what: str
    fix: str = ""


def ok(what: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", what)


def warning(what: str, fix: str) -> Finding:
    """A run can start, but may not be what you want."""
    return Finding("warning", what, fix)


def error(what: str, fix: str) -> Finding:
    """A run cannot start, or would be wrong."""
    return Finding("error", what, fix)


def can_start(findings: Sequence[Finding]) -> bool:
    """Whether no finding is an error."""
    return not any(one.grade == "error" for one in findings)


def told(findings: Sequence[Finding], as_json: bool) -> str:
    """The findings, worst last, so that what is to be done stands at the prompt."""
    order = ("ok", "warning", "error")
    ranked = sorted(findings, key=lambda one: order.index(one.grade))
    if as_json:
        body = {"can_start": can_start(findings), "findings": [asdict(one) for one in ranked]}
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"
    lines = []
    for one in ranked:
        lines.append(f"{one.grade:<8} {one.what}\n")
        lines += [f"{'':<8} fix: {one.fix}\n"] if one.fix else []
    bad = sum(one.grade == "error" for one in findings)
    verdict = "a run can start" if not bad else f"a run cannot start: {bad} to fix"
    return "".join(lines) + f"{verdict}\n"
