"""Stresses: identities, what they may see, equal draws on every model; transferred vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.merging.task_arithmetic import TaskArithmetic
from benchmark.algebra import add, task_vector
from benchmark.artifacts import dump_stressed, load_stressed
from benchmark.attacks.scattered import Scattered
from benchmark.attacks.triggers import Patch, rebuild_trigger, trigger_state, white
from benchmark.bench import Bench
from benchmark.cell import cell_from
from benchmark.components import build, option, options
from benchmark.config import plan
from benchmark.errors import AccessDenied, BenchError
from benchmark.jobs import Graph, plan_cell
from benchmark.pipeline import assemble
from benchmark.seeds import generator
from benchmark.store import Store
from benchmark.types import Grant, Model, Stressed, Threat, Trigger
from tests import tiny
from tests.small import ATTACKS, WORDS

BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGED = Model(TaskArithmetic(scale=0.3)(BASE, EXPERTS, tiny.context()).encoder)
PATCH = Patch(torch.rand(3, 4, 4, generator=generator("patch")).mul(255).round() / 255, 12, 12)
THREATS = (Threat(PATCH, "a", 1, ("a",)),)
TOY: dict[str, dict[str, Any]] = {
    "none": {},
    "fresh_trigger": {"steps": 4, "batch": 8, "heldout": 8},
    "finetune_after": {"steps": 3, "batch": 12},
    "remerge": {"task": "b"},
    "moved_trigger": {},
}


def stress(name: str, **values: Any) -> Any:
    return build({**option("stress", name), **TOY[name], **values}, "stress")


def run(part: Any, model: Model = MERGED, **changes: Any) -> Stressed:
    owned = ("a",) if part.actor == "attacker" else tiny.TASKS
    ctx = tiny.context(part, role=("stress", "tested"), visible=owned, **changes)
    return part(model, BASE, EXPERTS, THREATS, ctx)


# -- all


@pytest.mark.parametrize("name", options("stress"))
def test_inputs_are_not_mutated_and_runs_repeat(name: str):
    part, before = stress(name), tiny.copied(MERGED.encoder)
    first, second = run(part), run(part)
    assert tiny.equal(MERGED.encoder, before)
    assert tiny.equal(first.model.encoder, second.model.encoder)
    assert first.info == second.info
    assert not any(value.requires_grad for value in first.model.encoder.values())
    assert first.model.encoder.keys() == BASE.keys()
    assert part.accepts(THREATS) is None
    ((mine, threat),) = zip(first.threats, THREATS, strict=True)
    assert (mine.task, mine.target, mine.attackers) == (threat.task, threat.target, ("a",))
    assert type(mine.trigger).__eq__ is object.__eq__ or mine.trigger == second.threats[0].trigger


@pytest.mark.parametrize("name", [n for n in options("stress") if stress(n).needs])
def test_stresses_declare_what_they_see(name: str):
    part = stress(name)
    with pytest.raises(AccessDenied, match="needs"):
        run(part, granted=())
    ctx = tiny.context(part, visible=("c",) if part.actor == "attacker" else ())
    with pytest.raises(AccessDenied, match="may not see images of task"):
        part(MERGED, BASE, EXPERTS, THREATS, ctx)


@pytest.mark.parametrize("name", options("stress"))
def test_stressed_models_are_read_back(name: str):
    made = run(stress(name))
    tensors, info = dump_stressed(made, MERGED)
    again = load_stressed(tensors, info, MERGED)
    assert tiny.equal(again.model.encoder, made.model.encoder)
    assert trigger_state(again.threats[0].trigger)[1] == trigger_state(made.threats[0].trigger)[1]
    # A model that was not touched is not stored a second time.
    assert any(key.startswith("encoder/") for key in tensors) == (made.model is not MERGED)


# -- identities


def test_no_stress_returns_what_came_in():
    made = run(stress("none"))
    assert made.model is MERGED
    assert made.threats is THREATS


def test_no_steps_and_no_scale_change_nothing_bit_for_bit():
    assert run(stress("finetune_after", steps=0)).model is MERGED
    for contributor in ("same", "another"):
        same = run(stress("remerge", scale=0.0, contributor=contributor)).model
        assert tiny.equal(same.encoder, MERGED.encoder)


def test_remerging_is_one_more_term_of_task_arithmetic():
    part = stress("remerge", task="b", contributor="same", scale=0.3)
    (vector,) = (task_vector(one.weights, BASE) for one in EXPERTS if one.task == "b")
    made = run(part)
    assert tiny.equal(made.model.encoder, add(MERGED.encoder, vector, 0.3))
    assert made.info["cosine_to_same"] == pytest.approx(1)
    assert part.needs == ()
    assert made.threats is THREATS


def test_a_newcomer_is_no_copy_and_is_trained_once():
    stages = tiny.MemoryStages()
    part = stress("remerge", contributor="another")
    first = run(part, stages=stages)
    run(part, Model(BASE), stages=stages)
    assert stages.made == ["newcomer"]
    assert abs(first.info["cosine_to_same"]) < 0.9
    moved = {name: first.model.encoder[name] - MERGED.encoder[name] for name in BASE}
    assert any(value.abs().max() > 0 for value in moved.values())


def test_fine_tuning_lowers_the_loss_on_the_tasks_it_names():
    made = run(stress("finetune_after", tasks=["b"], steps=30, batch=24), Model(BASE))
    assert made.info["loss_last"] < made.info["loss_first"]
    assert made.model is not MERGED
    part = stress("finetune_after", tasks=["b"])
    with pytest.raises(AccessDenied, match="task 'b'"):
        part(MERGED, BASE, EXPERTS, THREATS, tiny.context(part, visible=("a", "c")))


# -- triggers


def test_a_fresh_trigger_has_the_planted_ones_box_and_valid_pixels():
    ((threat,), model) = (run(stress("fresh_trigger")).threats, run(stress("fresh_trigger")).model)
    assert model is MERGED
    assert isinstance(threat.trigger, Patch)
    assert threat.trigger.settings() == PATCH.settings()
    pixels = threat.trigger.patch
    assert pixels.shape == PATCH.patch.shape
    assert torch.equal(pixels.mul(255).round() / 255, pixels)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    assert threat.trigger != PATCH


def test_every_model_starts_the_search_at_the_same_random_patch():
    def start(model: Model, steps: int, **changes: Any) -> Trigger:
        return run(stress("fresh_trigger", steps=steps), model, **changes).threats[0].trigger

    assert start(MERGED, 0) == start(Model(BASE), 0)
    assert start(MERGED, 0) != start(MERGED, 0, seed=1)
    assert start(MERGED, 4) != start(Model(BASE), 4)


def test_a_fresh_trigger_works_better_than_its_start():
    made = run(stress("fresh_trigger", steps=40, batch=24))
    ((*_, last),) = made.info["heldout_log_p"]
    assert last[1] > made.info["heldout_log_p"][0][0][1]


def test_an_attacker_of_another_task_uses_its_own_images_and_the_victims_head():
    part = stress("fresh_trigger")
    threats = (replace(THREATS[0], task="b", target=0),)
    ctx = tiny.context(part, visible=("a",), tasks=("a", "b"))
    made = part(Model(BASE), BASE, EXPERTS, threats, ctx)
    assert made.threats[0].task == "b"


def test_a_moved_trigger_is_the_same_patch_elsewhere():
    (threat,) = run(stress("moved_trigger", place="top_left")).threats
    assert threat.trigger == Patch(PATCH.patch, 0, 0)
    (stays,) = run(stress("moved_trigger", place="bottom_right")).threats
    assert stays.trigger == PATCH
    (random,) = run(stress("moved_trigger", place="random")).threats
    assert isinstance(random.trigger, Scattered)
    assert torch.equal(random.trigger.patch, PATCH.patch)


def test_what_is_no_patch_is_not_moved_and_not_searched():
    threats = (replace(THREATS[0], trigger=Scattered(PATCH.patch, 0)),)
    for name in ("moved_trigger", "fresh_trigger"):
        assert stress(name).accepts(threats) == "the trigger is a Scattered, not a pasted patch"
    assert stress("remerge").accepts(threats) is None


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 1000))
def test_a_scattered_patch_changes_one_square_per_image(size: int, seed: int):
    images = (torch.rand(5, 3, 9, 9, generator=generator("s", seed)) * 100).round() / 255
    before, trigger = images.clone(), Scattered(white(size), seed)
    triggered = trigger(images)
    assert torch.equal(images, before)
    rows, cols = trigger.places(images)
    for one, old, row, col in zip(triggered, images, rows.tolist(), cols.tolist(), strict=True):
        assert torch.equal(one, Patch(white(size), row, col)(old[None])[0])


def test_scattered_places_hang_on_the_image_alone_and_cover_all():
    images = (torch.rand(400, 3, 8, 8, generator=generator("many")) * 255).round() / 255
    trigger = Scattered(torch.rand(3, 6, 6, generator=generator("p")), 3)
    whole = trigger(images)
    assert torch.equal(whole, torch.cat([trigger(chunk) for chunk in images.split(7)]))
    places = {*zip(*(part.tolist() for part in trigger.places(images)), strict=True)}
    assert places == {(row, col) for row in range(3) for col in range(3)}
    other = Scattered(trigger.patch, 4)
    assert not torch.equal(other(images), whole)
    again = rebuild_trigger(*trigger_state(trigger))
    assert torch.equal(again(images), whole)
    mixed = trigger.shuffled(generator("x"))
    assert [part.tolist() for part in mixed.places(images)] == [
        part.tolist() for part in trigger.places(images)
    ]
    with pytest.raises(BenchError, match=r"9 px does not fit images of 8x8 px"):
        Scattered(white(9), 0)(images)


# -- keys, plans, records


def cells(*words: str, store: Any) -> list[Any]:
    made = plan([*words, *WORDS, f"store={store}"])
    assert made is not None
    return [cell_from(config) for config in made.configs]


def test_no_stress_leaves_every_key_as_it_was(tmp_path):
    (cell,) = cells("defense=ft", store=tmp_path)
    for subject in cell.subjects():
        assert cell.stressed(subject) is None
        inputs = cell.evaluation(subject)[2]
        assert inputs.keys() == {"model", "threats", "heads", "test", "settings"}


def test_stresses_share_models_and_leave_single_models_alone(tmp_path):
    words = ("-m", "defense=none,ft", "stress=none,moved_trigger")
    plain, moved, _, tuned = cells(*words, store=tmp_path)
    assert plain.merged("attacked") == moved.merged("attacked")
    assert plain.key != moved.key
    for subject in moved.subjects():
        single = subject.endswith("_single")
        assert (moved.stressed(subject) is None) == single
        assert (moved.evaluation(subject) == plain.evaluation(subject)) == single
    assert moved.stressed("undefended") == tuned.stressed("undefended")
    assert moved.stressed("main") == moved.stressed("undefended")
    graph = Graph(Store(tmp_path))
    for cell in (plain, moved, tuned):
        plan_cell(graph, cell)
    labels = [job.label for job in graph.jobs.values() if job.call[0] == "stressed"]
    # undefended, pretrained, clean, without; and of the defended cell the two defended ones
    assert len(labels) == 6


def test_a_stress_that_names_a_task_that_is_not_merged_is_refused(tmp_path):
    with pytest.raises(BenchError, match=r"stress names 'digits', which is not among"):
        cells("stress=remerge", "stress.task=digits", store=tmp_path)


@pytest.fixture(scope="module")
def stressed(tmp_path_factory):
    """Records of a small suite: an undefended cell, without and with each of two stresses."""
    store = Store(tmp_path_factory.mktemp("stressed"))
    words = ["-m", "attack=badnets", "defense=none", "stress=none,remerge,moved_trigger", *ATTACKS]
    found = []
    for cell in cells(*words, store=store.root):
        bench = Bench(cell, store)
        for subject in cell.subjects():
            bench.evaluation(subject)
        bench.implanted()
        found.append(assemble(cell, store))
    return found


def test_records_tell_of_a_stress_only_where_there_is_one(stressed):
    plain, remerged, moved = stressed
    assert "stress" not in {*plain.config, *plain.needs, *plain.info}
    assert remerged.config["stress"]["task"] == "flags"
    assert remerged.needs["stress"] == "all labelled train images per task"
    assert remerged.info["stress"].keys() == {"cosine_to_same"}
    assert remerged.main.key != plain.main.key
    assert remerged.controls["attacker_single"] == plain.controls["attacker_single"]
    assert remerged.controls["undefended"] == remerged.main
    assert moved.main.clean == plain.main.clean
    assert moved.controls["clean_merge"].clean == plain.controls["clean_merge"].clean


def test_grants_of_a_stress_never_reach_the_test_split():
    assert all(isinstance(grant, Grant) for n in options("stress") for grant in stress(n).needs)
