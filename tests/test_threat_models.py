"""Every attack has a card, and the card is shown."""

import json
from dataclasses import astuple

import pytest

from benchmark.attacks.threat_model import ThreatModel
from benchmark.components import locate, option, options
from benchmark.listing import listing
from benchmark.report import Page, attackers, render_report
from benchmark.tables import make, rows
from tests.made_records import demo


@pytest.mark.parametrize("name", options("attack"))
def test_every_attack_has_a_card(name: str):
    card = locate(option("attack", name)["_target_"]).threat_model
    assert isinstance(card, ThreatModel)
    assert all(words[0].isupper() and words.endswith(".") for words in astuple(card))


def test_the_list_shows_the_cards():
    found = {one["name"]: one for one in json.loads(listing("attacks", as_json=True))}
    assert found.keys() == set(options("attack"))
    card = found["badnets"]["threat_model"]
    assert card.keys() == {"knows", "controls", "needs"}
    text = listing("attacks", verbose=True)
    for words in card.values():
        assert words in text
    assert "threat_model" not in listing("merges", as_json=True)


def test_the_report_shows_the_cards_of_its_attacks_once():
    made = rows(demo())
    (line,) = attackers(made)
    card = locate(option("attack", "badmerging_on")["_target_"]).threat_model
    assert line == ["badmerging_on", *astuple(card)]
    text = render_report(Page(tables=[make("demo", demo())]))
    assert text.count(card.knows) == 1
    assert "Who attacks" not in render_report(Page(tables=[]))
