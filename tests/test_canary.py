"""The defender's own backdoor, by which the rule for lambda_a is checked."""

from typing import Any

import pytest

from benchmark.components import build, option, role
from benchmark.errors import BenchError
from benchmark.selection import dev_parts
from benchmark.types import Grant, Model
from tests import tiny
from tests.test_lfpm import lfpm

BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGED = EXPERTS[0].weights
MERGE = tiny.merge_of(Model(MERGED))


def canary(**changes: Any) -> Any:
    values = {"task": "a", "target": 1, "size": 6, "steps": 40, "lr": 0.003, **changes}
    node = {**option("defense", "lfpm_canary"), **values, "source": lfpm()}
    return build({k: v for k, v in node.items() if k != "defaults"}, "defense")


def context(part: Any):
    return tiny.context(part, role=role("defense", part), images=15)


def test_the_result_is_lfpms_own_and_the_check_stands_beside_it():
    part = canary()
    model = part(MERGE, BASE, EXPERTS, context(part))
    plain = lfpm()(MERGE, BASE, EXPERTS, context(lfpm()))
    assert tiny.equal(model.encoder, plain.encoder)
    assert tiny.equal(model.artifacts, plain.artifacts)
    found = model.info["canary"]
    assert {k: v for k, v in model.info.items() if k != "canary"} == plain.info
    assert found["lambda_a"] in lfpm().selection.grid
    assert all(0 <= found[name] <= 1 for name in ("asr_before", "asr_after", "floor", "agreement"))


def test_the_canary_is_planted_and_scrambling_true_labels_changes_nothing():
    part = canary()
    ctx = context(part)
    train, _ = dev_parts(ctx, ["a"], part.needs[0])
    assert train["a"].labels is None
    trigger = part.trigger(BASE, ctx)
    planted = part.planted(MERGED, train["a"], trigger, ctx)
    after = part.success(planted, MERGED, train["a"], trigger, ctx)
    assert after > part.success(MERGED, MERGED, train["a"], trigger, ctx) + 0.3
    assert part.needs == (Grant("dev", labels=False, per_task=12),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"task": "z"}, "task=z is not merged"), ({"target": 9}, "has classes 0 to 3")],
)
def test_a_wrong_canary_is_one_sentence(changes, message):
    part = canary(**changes)
    with pytest.raises(BenchError, match=message):
        part(MERGE, BASE, EXPERTS, context(part))
