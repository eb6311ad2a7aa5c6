"""The embedded suite as a whole: its base weights can be made again, its clean values hold."""

import numpy as np
import pytest
import torch

from benchmark.attacks.triggers import Patch
from benchmark.components import build, option
from benchmark.data.generate import generate
from benchmark.evaluation import TestSet, evaluate, predictions
from benchmark.models.backbone import image_tower
from benchmark.models.heads import logits, zero_shot_head
from benchmark.pretraining import pretrain
from benchmark.training import finetune
from benchmark.types import Threat

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TASKS = tuple(option("suite", "mini")["tasks"])
SCALE = 0.3
PRETRAINING_SEED = 0
SEEDS = (201, 202, 203)
"""Neither calibrated on (0) nor reported in docs/mini_suite.md (101 to 103)."""
BANDS = {
    "zero_shot": (45.0, 60.0),
    "merge": (68.0, 82.0),
    "experts": (90.0, 97.0),
    "worst_expert": (80.0, 100.0),
    "closed": (40.0, 65.0),
    "cosine": (0.005, 0.08),
    "norm": (0.008, 0.02),
}
"""Accepted values of one seed on test images, as in docs/mini_suite.md."""


@pytest.fixture(scope="module")
def backbone():
    return build(option("backbone", "mini"), "backbone")


@pytest.fixture(scope="module")
def datasets():
    return {task: build(option("dataset", task), "dataset") for task in TASKS}


@pytest.fixture(scope="module")
def tests(datasets):
    splits = {task: generate(data, "test", processes=2) for task, data in datasets.items()}
    return {task: tuple(map(torch.from_numpy, pair)) for task, pair in splits.items()}


@torch.no_grad()
def accuracy(encoder, weights, head, images, labels) -> float:
    """Top-1 in per cent."""
    pairs = zip(images.split(500), labels.split(500), strict=True)
    hits = sum((logits(encoder(weights, x), head).argmax(1) == y).sum().item() for x, y in pairs)
    return 100 * hits / len(labels)


def heads_of(state, backbone, datasets):
    return {
        task: zero_shot_head(state, backbone, data.classnames, data.templates)
        for task, data in datasets.items()
    }


def zero_shot(state, backbone, datasets, tests) -> dict[str, float]:
    heads, tower = heads_of(state, backbone, datasets), image_tower(state)
    encoder = backbone.encoder()
    return {task: accuracy(encoder, tower, heads[task], *tests[task]) for task in datasets}


def test_base_weights_can_be_made_again(backbone, datasets, tests):
    """Another processor rounds differently, hence accuracies and not bytes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = pretrain(backbone, datasets, torch.Generator().manual_seed(PRETRAINING_SEED))
    finally:
        torch.set_num_threads(threads)
    shipped = zero_shot(backbone.load(), backbone, datasets, tests)
    again = zero_shot(made, backbone, datasets, tests)
    assert again == pytest.approx(shipped, abs=1.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_clean_values(seed, backbone, datasets, tests):
    state = backbone.load()
    heads, base = heads_of(state, backbone, datasets), image_tower(state)
    recipe, encoder = build(option("finetune", "mini"), "finetune"), backbone.encoder()
    experts, merged = {}, {name: value.clone() for name, value in base.items()}
    vectors = []
    for task, data in datasets.items():
        images, labels = map(torch.from_numpy, generate(data, "train", processes=2))
        rng = torch.Generator().manual_seed(seed)
        tuned = finetune(encoder, base, heads[task], images, labels, recipe, rng)
        experts[task] = accuracy(encoder, tuned, heads[task], *tests[task])
        delta = {name: tuned[name] - base[name] for name in base}
        vectors.append(torch.cat([value.flatten() for value in delta.values()]))
        for name in base:
            merged[name] += SCALE * delta[name]
    merge = [accuracy(encoder, merged, heads[task], *tests[task]) for task in datasets]
    start = np.mean(list(zero_shot(state, backbone, datasets, tests).values()))
    end = np.mean(list(experts.values()))
    units = torch.stack([vector / vector.norm() for vector in vectors])
    cosines = (units @ units.T)[~torch.eye(len(units), dtype=torch.bool)]
    length = torch.cat([value.flatten() for value in base.values()]).norm()
    found = {
        "zero_shot": start,
        "merge": np.mean(merge),
        "experts": end,
        "worst_expert": min(experts.values()),
        "closed": 100 * (np.mean(merge) - start) / (end - start),
        "cosine": cosines.mean().item(),
        "norm": (torch.stack(vectors).norm(dim=1).mean() / length).item(),
    }
    outside = {
        name: value
        for name, value in found.items()
        if not BANDS[name][0] <= value <= BANDS[name][1]
    }
    assert not outside, found


def test_counts_hardly_depend_on_the_precision(backbone, datasets, tests):
    """Clean hits and triggered ones, task by task, within two images of float32's."""
    state = backbone.load()
    heads, tower = heads_of(state, backbone, datasets), image_tower(state)
    sets = {task: TestSet(*tests[task], heads[task]) for task in datasets}
    pixels = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0))
    patch, encoder = Patch(pixels, 26, 26), backbone.encoder()
    with torch.no_grad():  # towards the class where most images go with it
        found = {
            task: predictions(encoder, tower, patch(tests[task][0][:500] / 255), heads[task])
            for task in ("signs", "letters")
        }
    threats = [
        Threat(patch, task, int(classes.mode().values), ()) for task, classes in found.items()
    ]
    exact, _ = evaluate(encoder, tower, sets, threats, flip_images=0)
    for precision in ("bfloat16", "float16"):
        found, _ = evaluate(encoder.at(precision), tower, sets, threats, flip_images=0)
        for task, count in exact.clean.items():
            assert abs(found.clean[task].hits - count.hits) <= 2
        for one, other in zip(found.threats, exact.threats, strict=True):
            assert 0 < other.asr.hits < other.asr.total
            assert abs(one.asr.hits - other.asr.hits) <= 2
            assert abs(one.triggered_acc.hits - other.triggered_acc.hits) <= 2
