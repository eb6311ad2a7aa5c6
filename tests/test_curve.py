"""The line between two models, and the dev images that development is measured on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.attacks.triggers import Patch
from benchmark.cell import cell_from
from benchmark.config import plan
from benchmark.context import Context
from benchmark.curve import blend, measure_line
from benchmark.errors import BenchError
from benchmark.evaluation import TestSet, evaluate
from benchmark.measured import measured_rows
from benchmark.seeds import generator
from benchmark.store import key_of
from benchmark.types import Grant, Model, Threat
from tests import tiny

START, END = tiny.base(0), tiny.base(1)
THREAT = Threat(Patch(torch.rand(3, 4, 4, generator=generator("p")), 12, 12), "a", 1, ("a",))
SETS = {task: TestSet(*tiny.split(task, "test", 30), tiny.head(task)) for task in ("a", "b")}


# -- the line --


def test_the_ends_of_the_line_are_the_models_bit_for_bit():
    assert tiny.equal(blend(START, END, 0.0), START)
    assert tiny.equal(blend(START, END, 1.0), END)


@given(st.floats(0, 4))
@settings(max_examples=20)
def test_the_line_is_straight(scale):
    made = blend(START, END, scale)
    for name, value in START.items():
        wanted = value.double() + scale * (END[name].double() - value.double())
        assert torch.allclose(made[name].double(), wanted, atol=1e-5)


def test_models_of_other_names_have_no_line():
    with pytest.raises(ValueError, match="proj"):
        blend(START, {name: value for name, value in END.items() if name != "proj"}, 0.5)


def test_points_at_the_ends_are_the_models_evaluations():
    points, hits = measure_line(
        tiny.encoder(), (Model(START), Model(END)), (0.0, 0.5, 1.0), SETS, [THREAT]
    )
    assert [point.scale for point in points] == [0.0, 0.5, 1.0]
    for point, weights in ((points[0], START), (points[2], END)):
        alone, found = evaluate(tiny.encoder(), weights, SETS, [THREAT], flip_images=0)
        assert point.evaluation == alone
        assert all(torch.equal(hits[f"{point.scale}/{name}"], hit) for name, hit in found.items())


def test_without_flip_images_all_but_the_flips_is_the_same():
    encoder = tiny.encoder()
    bare, hits = evaluate(encoder, START, SETS, [THREAT], flip_images=0)
    assert encoder.forward_images == 30 * 3
    full, _ = evaluate(encoder, START, SETS, [THREAT], flip_images=20)
    assert not [name for name in hits if "flipped" in name]
    assert (bare.clean, bare.threats[0].asr) == (full.clean, full.threats[0].asr)
    assert bare.threats[0].flipped == {}


# -- which cells have one, and what is measured --


def cell(*words, tmp_path):
    made = plan(["defense=ft", *words, f"store={tmp_path}"])
    assert made is not None
    return cell_from(made.configs[0])


def test_undefended_cells_and_suites_without_curve_images_have_no_line(tmp_path):
    assert cell(tmp_path=tmp_path).curve() is not None
    for words in (["defense=none"], ["suite=mini_6"], ["suite.curve=[]"]):
        assert cell(*words, tmp_path=tmp_path).curve() is None


@pytest.mark.parametrize("grid", ["[0.0,0.5]", "[0.5,1.0]", "[1.0,0.0]", "[0.0,1.0,1.0]"])
def test_a_curve_ascends_and_holds_both_ends(grid, tmp_path):
    with pytest.raises(BenchError, match=r"suite is not valid: curve=\[.*\] must rise and hold 0"):
        cell(f"suite.curve={grid}", tmp_path=tmp_path)


def test_what_is_measured_in_development_changes_no_key_of_a_result(tmp_path):
    plain = cell(tmp_path=tmp_path)
    other = cell("suite.granted=299", tmp_path=tmp_path)
    dev = cell("suite.evaluate=dev", tmp_path=tmp_path)
    assert plain.key == other.key != dev.key
    assert plain.model_key("main") == dev.model_key("main")
    for subject in plain.subjects():
        assert key_of(*plain.evaluation(subject)) != key_of(*dev.evaluation(subject))
    other = cell("suite.evaluate=dev", "suite.granted=310", tmp_path=tmp_path)
    assert key_of(*dev.evaluation("main")) != key_of(*other.evaluation("main"))


@pytest.mark.parametrize("seed", [0, 100])
@pytest.mark.parametrize(("task", "available"), [("signs", 600), ("optdigits", 450)])
def test_development_measures_what_no_method_was_handed(seed, task, available, tmp_path):
    dev = cell("suite.evaluate=dev", f"seed={seed}", tmp_path=tmp_path)
    measured = measured_rows(dev, task, available).tolist()
    numbered = torch.arange(available).reshape(-1, 1, 1, 1), torch.zeros(available)
    ctx: Context = tiny.context(granted=dev.defense.needs, seed=seed, tasks=(task,)).narrowed(
        _split=lambda task, split: numbered
    )
    (grant,) = dev.defense.needs
    handed = ctx.images(task, grant).images.flatten().tolist()
    assert (grant.split, len(handed)) == ("dev", 300)
    assert not set(measured) & set(handed)
    assert sorted(measured + handed) == list(range(available))


def test_test_images_are_taken_in_stored_order(tmp_path):
    assert measured_rows(cell(tmp_path=tmp_path), "signs", 7).tolist() == list(range(7))


BAD = {
    "suite.granted=299": "suite.granted=299: defense sees 300 labelled dev images per task",
    "suite.granted=450": "task 'optdigits' has 450 dev images, so none is left",
    "suite.evaluate=train": "suite.evaluate='train' is not valid",
}


@pytest.mark.parametrize("word", BAD)
def test_images_that_a_method_has_seen_are_refused(word, tmp_path):
    words = [word] if "evaluate" in word else ["suite.evaluate=dev", word]
    with pytest.raises(BenchError) as caught:
        cell(*words, tmp_path=tmp_path)
    assert BAD[word] in str(caught.value)


def test_test_images_are_not_a_grant():
    with pytest.raises(ValueError, match="'train' or 'dev'"):
        Grant("test", labels=False)  # type: ignore[arg-type]
