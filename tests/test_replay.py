"""The command of a record composes to the very cell that the record is of."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from benchmark import config, tables
from benchmark.cell import cell_from
from benchmark.recorded import record_cell
from benchmark.records import Record
from benchmark.replay import command, literal, words
from tests.made_records import record
from tests.small import ROOT


@pytest.fixture(scope="module")
def committed() -> list[Record]:
    folders = sorted(path.parent for path in ROOT.glob("results/*/records"))
    return [one for folder in folders for one in tables.find(folder)]


def longest(committed: list[Record]) -> list[Record]:
    """Two records whose commands say most, and not the same."""
    kinds: dict[frozenset[str], Record] = {}
    for one in committed:
        keys = frozenset(word.partition("=")[0] for word in words(one) or ())
        kinds.setdefault(keys, one)
    return [kinds[keys] for keys in sorted(kinds, key=lambda keys: (-len(keys), sorted(keys)))[:2]]


def composed(one: Record, store: Path) -> str:
    said = command(one)
    assert said is not None
    _, run, *asked = shlex.split(said)
    assert run == "run"
    plan = config.plan([*asked, f"store={store}"])
    assert plan is not None
    (node,) = plan.configs
    return cell_from(node).key


def test_a_command_composes_to_its_cell(tmp_path, committed):
    for one in longest(committed):
        assert composed(one, tmp_path) == one.key


def test_a_record_holds_its_cell(committed):
    assert len(committed) > 50
    for one in committed[::8]:
        assert record_cell(one).key == one.key


@pytest.mark.slow
def test_every_command_composes_to_its_cell(tmp_path, committed):
    for one in committed:
        assert composed(one, tmp_path) == one.key


def test_only_values_that_are_not_the_options_own_are_said(committed):
    demo = [one for one in committed if one.names["suite"] == "mini_6"]
    said = {one.names["defense"]: words(one) for one in demo if one.seed == 1}
    chosen = ["suite=mini_6", "attack=badmerging_on", "merge=task_arithmetic"]
    assert said["lfpm"] == [*chosen, "defense=lfpm", "defense.passes=11000", "seed=1"]


def test_an_option_that_is_gone_has_no_command():
    assert command(record(names={"merge": "gone"}, config={"merge": {"scale": 1}})) is None


PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text("ab '\\:,{}[]$1.é", max_size=8)
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.recursive(PLAIN | FLOATS, lambda one: st.lists(one, max_size=3), max_leaves=5))
def test_literals_are_read_back_as_they_were(value):
    (word,) = OverridesParser.create().parse_overrides([f"a={literal(value)}"])
    assert word.value() == value


def test_mappings_are_read_back():
    value = [{"adversary": "signs", "place": [1, 2.5], "name": "it's"}]
    (word,) = OverridesParser.create().parse_overrides([f"a={literal(value)}"])
    assert word.value() == value
