"""The image tower as a function, zero-shot heads, base weights."""

import copy

import pytest
import torch

from benchmark.components import build, option
from benchmark.errors import BenchError
from benchmark.models.backbone import image_tower
from benchmark.models.heads import logits, zero_shot_head


@pytest.fixture(scope="module")
def backbone():
    return build(option("backbone", "mini"), "backbone")


@pytest.fixture(scope="module")
def state(backbone):
    return backbone.build(seed=3).state_dict()


@pytest.fixture
def images():
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=rng)


def test_encoder_equals_open_clip(backbone, state, images):
    encoder, model = backbone.encoder(), backbone.build(seed=3).eval()
    mean = torch.tensor(backbone.mean).view(1, 3, 1, 1)
    std = torch.tensor(backbone.std).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = model.encode_image((images.float() / 255 - mean) / std)
        found = encoder(image_tower(state), images)
    assert (found - expected).abs().max() < 1e-5
    assert torch.equal(encoder(image_tower(state), images.float() / 255), found)


def test_shapes_and_names(backbone, state):
    encoder = backbone.encoder()
    tower = image_tower(state)
    assert encoder.shapes == {name: tuple(value.shape) for name, value in tower.items()}
    assert set(encoder.parameter_names) == set(tower)


def test_missing_weights_are_refused(backbone, state, images):
    tower = image_tower(state)
    tower.pop("proj")
    with pytest.raises(RuntimeError, match="proj"):
        backbone.encoder()(tower, images)


def test_differentiable_in_weights_and_images_and_metered(backbone, state, images):
    encoder = backbone.encoder()
    weights = {name: value.clone().requires_grad_() for name, value in image_tower(state).items()}
    pixels = (images.float() / 255).requires_grad_()
    encoder(weights, pixels).square().sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert all(value.grad is not None for value in weights.values())
    assert (encoder.forward_images, encoder.backward_images) == (0, 5)
    with torch.no_grad():
        encoder(weights, images)
    assert (encoder.forward_images, encoder.backward_images) == (5, 5)


def test_no_global_state(backbone, state, images):
    before = torch.random.get_rng_state()
    backbone.build(seed=1)
    encoder = backbone.encoder()
    encoder(image_tower(state), images)
    assert torch.equal(before, torch.random.get_rng_state())


def test_build_depends_on_its_seed(backbone, state):
    again = backbone.build(seed=3).state_dict()
    assert all(torch.equal(state[name], again[name]) for name in state)
    assert not torch.equal(state["visual.proj"], backbone.build(seed=4).state_dict()["visual.proj"])


def test_head(backbone, state):
    names, templates = ("happy", "sad", "angry"), ("a {} face", "someone {}")
    head = zero_shot_head(state, backbone, names, templates)
    assert head.shape == (3, backbone.model["embed_dim"])
    assert torch.allclose(head.norm(dim=1), torch.full((3,), backbone.logit_scale), rtol=1e-5)
    turned = zero_shot_head(state, backbone, names[::-1], templates)
    assert torch.allclose(head, turned.flip(0), atol=1e-4)
    scores = logits(torch.randn(4, 128, generator=torch.Generator().manual_seed(0)) * 7, head)
    assert scores.shape == (4, 3)
    assert scores.abs().max() <= backbone.logit_scale


def test_shipped_weights_load(backbone):
    state = backbone.load()
    assert all(value.dtype == torch.float32 for value in state.values())
    assert all(value.isfinite().all() for value in state.values())
    assert backbone.path().stat().st_size < 12e6


def test_weights_that_do_not_fit_are_refused(backbone, state, tmp_path):
    from safetensors.torch import save_file

    node = option("backbone", "mini")
    path = tmp_path / "base.safetensors"
    for change in (lambda tensors: tensors.pop("visual.proj"), cut):
        wrong = copy.deepcopy(dict(state))
        change(wrong)
        save_file(wrong, path)
        with pytest.raises((ValueError, BenchError), match=r"visual\.proj"):
            build({**node, "weights": str(path)}, "backbone").load()
    with pytest.raises(ValueError, match="no weights"):
        build({**node, "weights": None}, "backbone").path()


def cut(state):
    state["visual.proj"] = torch.zeros(1)
