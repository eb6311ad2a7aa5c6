"""Fine-tuning and pre-training, on a tiny tower."""

import numpy as np
import pytest
import torch

from benchmark.components import build, option
from benchmark.models.backbone import image_tower
from benchmark.models.heads import logits, zero_shot_head
from benchmark.pretraining import pretrain
from benchmark.training import Recipe, cosine_rate, finetune

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def backbone():
    node = option("backbone", "mini")
    recipe = {**node["pretrain"], "epochs": 2, "batch": 32}
    model = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    return build({**node, "model": model, "weights": None, "pretrain": recipe}, "backbone")


@pytest.fixture(scope="module")
def flags():
    node = option("dataset", "flags")
    return build({**node, "sizes": {"pretrain": 100, "train": 100}}, "dataset")


@pytest.fixture(scope="module")
def problem(backbone, flags):
    state = backbone.build(seed=0).state_dict()
    head = zero_shot_head(state, backbone, flags.classnames, flags.templates)
    images, labels = (torch.from_numpy(part) for part in flags("train", 0, 100))
    return backbone.encoder(), image_tower(state), head, images, labels


def recipe(**changes) -> Recipe:
    return build({**option("finetune", "mini"), "batch": 32, "min_steps": 8, **changes}, "finetune")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tune(problem, recipe, rng, **options):
    encoder, base, head, images, labels = problem
    return finetune(encoder, base, head, images, labels, recipe, rng, **options)


def test_bit_for_bit(problem):
    base = {name: value.clone() for name, value in problem[1].items()}
    first = tune(problem, recipe(), rng())
    again = tune(problem, recipe(), rng())
    other = tune(problem, recipe(), rng(1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert all(torch.equal(base[name], problem[1][name]) for name in base)
    assert set(first) == set(base)
    assert not any(value.requires_grad for value in first.values())


def test_extra_loss_none_and_zero_equal_the_clean_run(problem):
    clean = tune(problem, recipe(), rng())
    own = rng(5)

    def nothing(weights, images, labels, step):
        torch.rand(3, generator=own)

    def zero(weights, images, labels, step):
        assert images.is_floating_point()
        assert images.max() <= 1
        return 0.0 * problem[0](weights, images).sum()

    for extra in (nothing, zero):
        found = tune(problem, recipe(), rng(), extra_loss=extra)
        assert all(torch.equal(clean[name], found[name]) for name in clean)

    def pull(weights, images, labels, step):
        return sum(value.square().sum() for value in weights.values())

    pulled = tune(problem, recipe(), rng(), extra_loss=pull)
    assert not all(torch.equal(clean[name], pulled[name]) for name in clean)


def test_it_learns_and_reports(problem):
    encoder, base, head, images, labels = problem
    steps = []
    tuned = tune(
        problem,
        recipe(lr=3e-3, min_steps=60),
        rng(),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps[-1] == (60, 60)
    with torch.no_grad():
        before = (logits(encoder(base, images), head).argmax(1) == labels).float().mean()
        after = (logits(encoder(tuned, images), head).argmax(1) == labels).float().mean()
    assert after > before + 0.3


def test_float_images_equal_bytes(problem):
    encoder, base, head, images, labels = problem
    whole = tune(problem, recipe(), rng())
    unit = finetune(encoder, base, head, images.float() / 255, labels, recipe(), rng())
    assert all(torch.equal(whole[name], unit[name]) for name in whole)


def test_schedule():
    rates = [cosine_rate(1.0, 0.1, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert recipe(epochs=3, batch=10, min_steps=1).steps(25) == 6
    assert recipe(epochs=3, batch=10, min_steps=50).steps(25) == 50
    assert recipe(epochs=3, batch=10, min_steps=1).steps(5) == 3


def test_pretraining_is_reproducible(backbone, flags):
    data = {"flags": flags, "optdigits": build(option("dataset", "optdigits"), "dataset")}
    first, again = pretrain(backbone, data, rng()), pretrain(backbone, data, rng())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(value, value.half().float()) for value in first.values())
    assert first.keys() == backbone.build(seed=0).state_dict().keys()
    start = backbone.build(seed=0).state_dict()
    assert not torch.equal(first["visual.proj"], start["visual.proj"])
