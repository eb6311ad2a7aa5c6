"""What other packages answered, kept in results/oracles, beside what we answer today."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.oracles import cases, environments
from tests.oracles.__main__ import OUT, inputs, questions, sha256
from tests.oracles.answering import named, state_dicts
from tests.oracles.asking import Question, compared
from tests.oracles.report import BAD, as_json, as_markdown, rows

ASKED = questions()
REPORT = json.loads((OUT / "oracles.json").read_text())
ANSWERS = load_file(OUT / "answers.safetensors")
METHODS = sorted({one.method for one in ASKED})


def test_questions_are_different():
    assert len({one.id for one in ASKED}) == len(ASKED) > 400
    assert {one.peer for one in ASKED} == environments.PEERS.keys()
    found: dict[str, set[str]] = {}
    for one in ASKED:
        found.setdefault(one.inputs, set()).add(sha256(one.case))
    assert all(len(hashes) == 1 for hashes in found.values())


@pytest.mark.parametrize("method", METHODS)
def test_we_answer_what_the_peers_answered(method):
    """Every pair that must agree does, and every pair that must differ does."""
    asked = [one for one in ASKED if one.method == method]
    kept = [one for one in asked if one.id in ANSWERS]
    found = [compared(one, ANSWERS[one.id]) for one in kept]
    assert not [(one.question.id, one.difference) for one in found if one.verdict in BAD]
    for one in set(asked) - set(kept):
        refused = bool(one.because) and one.id in REPORT["errors"]
        assert refused or one.about in cases.long(), f"{one.id} was never asked"


def test_the_report_is_of_these_questions_and_nothing_is_amiss():
    assert REPORT["questions"] == len(ASKED)
    assert not [row for row in REPORT["rows"] if row["verdict"] in BAD]
    shown = {(row["method"], row["peer"], row["because"]): row["inputs"] for row in REPORT["rows"]}
    asked: dict[tuple[str, str, str], int] = {}
    for one in ASKED:
        key = one.method, one.peer, one.because
        asked[key] = asked.get(key, 0) + 1
    assert shown == asked
    assert (OUT / "oracles.md").read_text() == as_markdown(REPORT)


def test_the_report_names_the_versions_that_are_installed():
    for peer, requirement in environments.PEERS.items():
        package, version = requirement.split("==")
        assert REPORT["versions"][peer][package] == version


# -- how a verdict is reached


def question(because: str = "") -> Question:
    one = next(one for one in ASKED if one.method == "ties, mean" and not one.because)
    return replace(one, because=because)


def test_a_difference_is_seen_and_a_reason_that_is_none_is_too():
    one = question()
    ours = one.ours(one.case)
    off = ours.clone()
    off[0] += 2 * one.tolerance * float(ours.abs().max())
    assert compared(one, ours).verdict == "agrees"
    assert compared(one, off).verdict == "disagrees"
    assert compared(one, None, "ValueError: no").verdict == "disagrees"
    assert compared(one, ours[:-1]).verdict == "disagrees"
    assert compared(question("a reason"), off).verdict == "explained"
    assert compared(question("a reason"), None, "ValueError: no").verdict == "explained"
    assert compared(question("a reason"), ours).verdict == "reason out of date"
    assert compared(one, torch.full_like(ours, math.nan)).verdict == "disagrees"


def test_a_row_is_as_bad_as_its_worst_question():
    one = question()
    ours = one.ours(one.case)
    found = rows([compared(one, ours), compared(one, ours + 1), compared(one, ours)])
    assert [(row["inputs"], row["verdict"]) for row in found] == [(3, "disagrees")]
    assert found[0]["worst"] == [one.id]
    report = as_json([compared(one, ours + 1)], {"commit": None, "versions": {}})
    assert one.id in as_markdown(report)


# -- what goes to a peer and back


def test_inputs_come_back_as_they_went():
    few = ASKED[::40]
    sent = inputs(few)
    for one in few:
        back = named(sent, one.inputs)
        assert back.keys() == one.case.keys()
        assert all(torch.equal(back[name], value) for name, value in one.case.items())


def test_state_dicts_are_told_apart():
    case = {
        "0/a.b": torch.zeros(1),
        "0/c": torch.ones(1),
        "1/a.b": torch.ones(2),
        "1/c": torch.zeros(1),
    }
    base, expert = state_dicts(case)
    assert base.keys() == expert.keys() == {"a.b", "c"}
    assert len(expert["a.b"]) == 2
