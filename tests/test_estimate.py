"""What is estimated from shapes is what the tower has and does."""

import re
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark.cell import cell_from
from benchmark.components import build, option, options
from benchmark.config import plan
from benchmark.doctor.command import _memory
from benchmark.estimate import (
    PROCESS,
    Cost,
    activations,
    largest_split,
    needed,
    of_stage,
    operations,
    parameters,
    weights,
)
from benchmark.models.encoder import Encoder
from tests.small import ROOT


def backbone(name: str, **values):
    return build({**option("backbone", name), "weights": None, **values}, "backbone")


@pytest.mark.parametrize("name", options("backbone"))
def test_parameters_are_counted_exactly(name):
    found = backbone(name)
    shapes = found.encoder().shapes.values()
    assert parameters(found) == sum(torch.Size(shape).numel() for shape in shapes)
    assert weights(found) == 4 * parameters(found)


def test_parameters_of_vit_b32_are_those_of_the_literature():
    assert parameters(backbone("vit_b32")) == 87_849_216


def tower(quick: bool) -> tuple[Encoder, dict[str, torch.Tensor]]:
    made = backbone("mini", model={**option("backbone", "mini")["model"], "quick_gelu": quick})
    encoder = made.encoder()
    rng = torch.Generator().manual_seed(0)
    shapes = encoder.shapes.items()
    return encoder, {k: torch.randn(s, generator=rng).requires_grad_() for k, s in shapes}


@pytest.mark.parametrize("quick", [False, True])
def test_activations_are_what_the_graph_keeps(quick):
    encoder, values = tower(quick)
    own = {value.untyped_storage().data_ptr() for value in values.values()}
    kept: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        place = value.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = value.untyped_storage().nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        encoder(values, torch.rand(4, 3, 32, 32))
    model = {**option("backbone", "mini")["model"], "quick_gelu": quick}
    assert sum(kept.values()) / 4 == pytest.approx(
        activations(backbone("mini", model=model)), rel=0.05
    )


def test_operations_are_those_that_torch_counts():
    encoder, values = tower(False)
    with FlopCounterMode(display=False) as counted:
        encoder(values, torch.rand(2, 3, 32, 32))
    assert counted.get_total_flops() / 2 == pytest.approx(operations(backbone("mini")), rel=0.02)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    made = plan(["suite=vit_b32_6", "defense=lfpm", f"store={tmp_path_factory.mktemp('plans')}"])
    assert made is not None
    return cell_from(made.configs[0])


def test_a_cell_of_bad_mergings_six_tasks(cell):
    """Steps of the published recipe, less its partial batches; images of the published splits."""
    expert = of_stage(cell, ("expert", "cifar100"))
    assert expert.passes == 5 * (45_000 // 128) * 128
    images = {"cifar100": 20_000, "gtsrb": 12_630, "eurosat": 2_700, "cars": 8_041}
    images |= {"sun397": 19_850, "pets": 3_669}
    flips = 5 * 2 * 500
    measured = of_stage(cell, ("evaluation", "main")).passes
    assert measured == pytest.approx((sum(images.values()) + flips) / 3)
    assert of_stage(cell, ("defended", "attacked")).passes == 64_000
    total = needed(cell)
    assert total.passes > 6 * expert.passes
    assert total.memory > 4 * weights(cell.backbone)


def test_costs_add_up_and_memory_is_that_of_the_largest():
    one, other = Cost(1, 2, 3, 4, 5), Cost(10, 20, 30, 40, 4)
    assert one + other == Cost(11, 22, 33, 44, 5)


PLANNED = {
    "merging eight experts": (("merged", "attacked"), None),
    "evaluation, less its images": (("evaluation", "main"), None),
    "a BadMerging step in micro-batches of 32, less the train images": (("compromise",), 32),
    "LFPM, eight tasks, in micro-batches of 8": (("defended", "attacked"), 8),
}


@pytest.mark.parametrize("what", PLANNED)
def test_the_docs_plan_memory_as_the_estimate_does(what, cell):
    """For B/32 beside what was measured, which is at most a fifth away."""
    text = (ROOT / "docs/paper_scale.md").read_text()
    (row,) = re.findall(rf"^\| {re.escape(what)} \| (\S+) \| (\S+) \| (\S+) \|$", text, re.M)
    call, micro = PLANNED[what]
    found = []
    for name in ("vit_b32", "vit_l14"):
        suite = replace(cell.suite, tasks=(*cell.suite.tasks, "mnist", "dtd"))
        more = dict.fromkeys(suite.tasks[6:], cell.datasets["pets"])
        whole = replace(
            cell,
            suite=suite,
            datasets={**cell.datasets, **more},
            backbone=backbone(name, micro_batch=micro),
        )
        images = largest_split(whole)[1] if call == ("compromise",) else 0
        found.append(f"{(of_stage(whole, call).memory + PROCESS - images) / 2**30:.1f}")
    assert found == list(row[1:])
    assert float(row[1]) == pytest.approx(float(row[0]), rel=0.2)


def test_doctor_names_images_that_do_not_fit(cell):
    """No micro-batch helps where a contributor's images are too many."""
    pcam = {"pcam": replace(cell.datasets["gtsrb"], sizes=option("dataset", "pcam")["sizes"])}
    whole = replace(cell, datasets={**cell.datasets, **pcam})
    gpu = {"devices": [{"memory": 40 * 2**30}]}
    (found,) = _memory(whole, Cost(memory=60 * 2**30), gpu, "cuda")
    assert "without pcam, whose train images alone take 36 GiB" in found.fix
    (found,) = _memory(cell, Cost(memory=60 * 2**30), gpu, "cuda")
    assert "micro_batch=16" in found.fix
