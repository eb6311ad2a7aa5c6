"""Records survive their files, and refuse what is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import BenchError
from benchmark.records import (
    Count,
    Evaluation,
    Point,
    Record,
    ThreatCounts,
    from_json,
    read,
    read_all,
    to_json,
    write,
)
from tests.made_records import record

words = st.text(max_size=8)
counts = st.integers(0, 10**6).flatmap(
    lambda total: st.builds(Count, st.integers(0, total), st.just(total))
)
per_task = st.dictionaries(words, counts, max_size=3)
threats = st.builds(
    ThreatCounts,
    task=words,
    target=st.integers(0, 99),
    flipped=per_task,
    flipped_shuffled=per_task,
    **dict.fromkeys(
        ("asr", "target_rate", "target_recall", "triggered_acc", "misclassified"), counts
    ),
)
evaluations = st.builds(Evaluation, words, per_task, st.lists(threats, max_size=2).map(tuple))
plain: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | words
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
objects = st.dictionaries(words, plain, max_size=3)
names = st.dictionaries(words, words, max_size=4)
made = st.builds(
    Record,
    key=words,
    names=names,
    seed=st.integers(0, 2**31),
    status=st.sampled_from(["done", "skipped", "not_implanted", "failed"]),
    reason=st.none() | words,
    config=objects,
    needs=names,
    parents=objects,
    main=st.none() | evaluations,
    controls=st.dictionaries(words, evaluations, max_size=2),
    info=objects,
    provenance=objects,
    curve=st.lists(st.builds(Point, st.floats(0, 4), evaluations), max_size=2).map(tuple),
    schema=st.just(2),
)


@given(made)
def test_round_trip(one: Record) -> None:
    assert from_json(to_json(one)) == one


def test_files(tmp_path: Path) -> None:
    both = [record("ft"), record("clp")]
    paths = [write(tmp_path, one) for one in both]
    assert read(paths[0]) == both[0]
    assert read_all(paths) == both[::-1]


def test_identity_leaves_provenance_out() -> None:
    one = record()
    other = replace(one, provenance={"seconds": 99})
    assert one.identity_part() == other.identity_part()
    assert one.identity_part() != replace(one, seed=5).identity_part()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"schema": 3}', '{"schema": 1}', '{"schema": 2, "main": 3}']
)
def test_damaged_files_are_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BenchError, match=r"x\.json is not a record .* delete it"):
        read(path)


def test_records_from_before_curves_are_read() -> None:
    body = json.loads(to_json(record("ft")))
    del body["curve"]
    assert from_json(json.dumps({**body, "schema": 1})) == record("ft")


@pytest.mark.parametrize("pair", [(3, 2), (-1, 2)])
def test_counts_are_checked(pair: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="0 <= hits <= total"):
        Count(*pair)


def test_nothing_counted_has_no_rate() -> None:
    with pytest.raises(ValueError, match="no rate"):
        _ = Count(0, 0).rate
