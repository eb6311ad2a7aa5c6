"""Plans without torch: shared stages are one job, and every job waits for what it reads."""

import pytest

from benchmark.cell import cell_from
from benchmark.config import plan
from benchmark.jobs import Graph, plan_cell
from benchmark.store import Store, key_of
from tests.small import WORDS


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plans")
    words = ["-m", "attack=badnets,badmerging_on", "defense=none,ft", *WORDS, f"store={folder}"]
    made = plan(words)
    assert made is not None
    return [cell_from(config) for config in made.configs]


def test_stages_are_shared(cells, tmp_path):
    graph = Graph(Store(tmp_path))
    for cell in cells:
        plan_cell(graph, cell)
    labels = [job.label for job in graph.jobs.values()]
    assert len(labels) == len(set(labels))
    assert sum(label.startswith("expert") for label in labels) == 3
    assert sum(label.startswith("attack") for label in labels) == 2
    # The defended clean merge is a control of both attacks and does not depend on them.
    assert sum(label.startswith("defend clean") for label in labels) == 1
    assert sum(label.startswith("defend attacked") for label in labels) == 2


def test_jobs_wait_for_jobs_of_the_plan_only_and_without_circles(cells, tmp_path):
    graph = Graph(Store(tmp_path))
    for cell in cells:
        plan_cell(graph, cell)
    done: set[str] = set()
    waiting = dict(graph.jobs)
    while waiting:
        ready = [key for key, job in waiting.items() if job.after <= done]
        assert ready, "these jobs wait for each other or for none of the plan"
        for key in ready:
            done.add(key)
            del waiting[key]


def test_early_cells_come_first(cells, tmp_path):
    graph = Graph(Store(tmp_path))
    for cell in cells:
        plan_cell(graph, cell)
    own = {job.label: job.cell for job in graph.jobs.values()}
    assert {n for label, n in own.items() if "badmerging_on" in label} == {3, 4}
    assert {n for label, n in own.items() if label.startswith("expert")} == {1}


def test_what_is_in_the_store_is_not_planned(cells, tmp_path):
    import torch

    store, (cell, *_) = Store(tmp_path), cells
    stage = cell.expert("flags")
    store.save(stage[0], key_of(*stage), ({"x": torch.zeros(1)}, {}), stage[2])
    graph = Graph(store)
    plan_cell(graph, cell)
    assert key_of(*stage) not in graph.jobs
    assert not any(key_of(*stage) in job.after for job in graph.jobs.values())


def test_keys_depend_on_what_they_should(cells):
    none, ft = cells[0], cells[1]
    assert none.key != ft.key
    assert none.merged("clean") == ft.merged("clean")
    assert none.defended("clean") == none.merged("clean")
    assert ft.defended("clean") != ft.merged("clean")
    other = cells[2]
    assert none.evaluation("clean_merge") != other.evaluation("clean_merge")  # another trigger
    assert none.merged("clean") == other.merged("clean")
    assert none.merged("attacked") != other.merged("attacked")
