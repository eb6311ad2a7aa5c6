"""Ways to compute the same features: micro-batches, autocast, compiled code; and what they keep."""

import pytest
import torch
from torch.nn.functional import normalize

from benchmark import evaluation
from benchmark.attacks.triggers import Patch
from benchmark.components import build, identity, option
from benchmark.evaluation import TestSet, evaluate, predictions
from benchmark.models import encoder as encoders
from benchmark.models.encoder import Encoder, regraded
from benchmark.models.heads import logits
from benchmark.models.moments import recorded
from benchmark.training import finetune
from benchmark.types import Threat
from tests import tiny

IMAGES, LABELS = tiny.split("a", "train", 40)


def made(**options) -> Encoder:
    return Encoder(tiny.MODEL, tiny.BACKBONE.mean, tiny.BACKBONE.std, **options)


def slopes(encoder: Encoder) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Features, and the gradient of a loss in weights and images."""
    weights = {name: value.requires_grad_() for name, value in tiny.base().items()}
    pixels = (IMAGES / 255).requires_grad_()
    features = encoder(weights, pixels)
    torch.nn.functional.cross_entropy(logits(features, tiny.head("a")), LABELS).backward()
    found = {name: value.grad for name, value in weights.items() if value.grad is not None}
    assert found.keys() == weights.keys()
    assert pixels.grad is not None
    return features.detach(), found, pixels.grad


def joined(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def far(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm().clamp_min(1e-12))


def test_micro_batches_change_the_rounding_only_and_the_meter_not():
    whole, parts = made(), made(micro_batch=7)
    (features, weights, images), (again, others, pixels) = slopes(whole), slopes(parts)
    assert far(again, features) < 1e-6
    assert max(far(others[name], weights[name]) for name in weights) < 1e-5
    assert far(pixels, images) < 1e-5
    assert parts.backward_images == whole.backward_images == len(IMAGES)
    with torch.no_grad():
        assert far(parts(tiny.base(), IMAGES), features) < 1e-6
    assert parts.forward_images == len(IMAGES)


def test_micro_batches_remember_one_at_a_time():
    def held(encoder: Encoder) -> int:
        """Numbers that the graph of one call keeps, without weights and images."""
        kept: list[int] = []
        weights = {name: value.requires_grad_() for name, value in tiny.base().items()}
        own = {value.data_ptr() for value in weights.values()}

        def pack(value: torch.Tensor) -> torch.Tensor:
            kept.append(0 if value.data_ptr() in own else value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            encoder(weights, IMAGES)
        return sum(kept)

    assert held(made(micro_batch=8)) == IMAGES.numel() < held(made()) / 5


def test_hooks_see_every_image_once():
    encoder = made(micro_batch=7)
    with torch.no_grad():
        outputs, features = encoder.blocks(tiny.base(), IMAGES)
        assert [len(one) for one in outputs] == [len(IMAGES)]
        assert far(encoder(tiny.base(), IMAGES), features) < 1e-6
        with recorded(encoder, tiny.base()) as found:
            encoder(tiny.base(), IMAGES)
    tokens = 1 + (tiny.SIDE // 8) ** 2
    assert found.counts["transformer.resblocks.0.attn.in_proj_weight"] == tokens * len(IMAGES)
    assert encoder.micro_batch == 7


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_autocast_is_close_and_everything_outside_stays_float32(precision, most):
    exact, (features, weights, images) = slopes(made()), slopes(made(precision=precision))
    assert features.dtype == images.dtype == torch.float32
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert 1e-5 < far(features, exact[0]) < most
    total = [
        torch.cat([one[name].flatten() for name in sorted(one)]) for one in (weights, exact[1])
    ]
    assert far(*total) < 3 * most
    again, others, _ = slopes(made(precision=precision, micro_batch=7))
    assert far(again, features) < most
    assert max(far(others[name], weights[name]) for name in weights) < 3 * most


def test_small_gradients_survive_float16(monkeypatch):
    """A loss a thousandth as large has gradients a thousandth as large, thanks to its scale."""

    def slope(factor: float) -> torch.Tensor:
        weights = {name: value.requires_grad_() for name, value in tiny.base().items()}
        (factor * made(precision="float16")(weights, IMAGES).square().mean()).backward()
        return torch.cat([value.grad.flatten() for value in weights.values()])  # type: ignore[union-attr]

    assert far(1e4 * slope(1e-4), slope(1.0)) < 0.02
    monkeypatch.setattr(encoders, "LOSS_SCALE", 1.0)
    assert far(1e4 * slope(1e-4), slope(1.0)) > 0.02


def test_regraded():
    value = torch.tensor([1.1, -3e7, 1e-9], requires_grad=True)
    again = regraded(value, 1 / 1024)
    assert torch.equal(again, value)
    again.sum().backward()
    assert torch.equal(value.grad, torch.full((3,), 1 / 1024))  # type: ignore[arg-type]


def test_another_precision_shares_tower_and_meter():
    encoder = made()
    half = encoder.at("bfloat16")
    with torch.no_grad():
        coarse, fine = half(tiny.base(), IMAGES), encoder(tiny.base(), IMAGES)
    assert not torch.equal(coarse, fine)
    assert encoder.forward_images == half.forward_images == 2 * len(IMAGES)


@pytest.mark.slow
def test_compiled_code_is_one_graph(monkeypatch):
    whole = torch.compile

    def traced(encode):
        return whole(encode, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", traced)
    encoder = made(compiled=True)
    with torch.no_grad():
        assert far(encoder(tiny.base(), IMAGES), made()(tiny.base(), IMAGES)) < 1e-6
        assert len(encoder.blocks(tiny.base(), IMAGES)[0]) == 1


def test_counts_agree_with_float32_within_two_images_per_task():
    """A fine-tuned tower, a patch and 400 images per task, measured three times.

    The embedded suite itself is a slow test, in tests/test_suite_slow.py.
    """
    recipe = build({**option("finetune", "mini"), "lr": 1e-3, "min_steps": 40}, "finetune")
    base, tuned = tiny.base(), {}
    for task in ("a", "b"):
        rng = torch.Generator().manual_seed(0)
        given = (*tiny.split(task, "train", 200), recipe, rng)
        tuned[task] = finetune(made(), base, tiny.head(task), *given)
    merged = {name: (tuned["a"][name] + tuned["b"][name]) / 2 for name in base}
    tests = {task: TestSet(*tiny.split(task, "test", 400), tiny.head(task)) for task in tuned}
    pixels = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1))
    threats = [Threat(Patch(pixels, 0, 0), "a", 1, ())]
    encoder = made()
    exact, _ = evaluate(encoder, merged, tests, threats, flip_images=400)
    assert {count.total for count in exact.clean.values()} == {400}
    assert all(100 < count.hits < 400 for count in exact.clean.values())
    for precision in ("bfloat16", "float16"):
        found, _ = evaluate(encoder.at(precision), merged, tests, threats, flip_images=400)
        for task in tests:
            assert abs(found.clean[task].hits - exact.clean[task].hits) <= 2
        assert abs(found.threats[0].asr.hits - exact.threats[0].asr.hits) <= 2


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_predictions_too_close_to_call_are_made_in_float32(precision, monkeypatch):
    """Boundaries through the midst of the features: the images next to them are encoded again."""
    images, _ = tiny.split("a", "train", 400)
    encoder, rng = made(), torch.Generator().manual_seed(3)
    half = encoder.at(precision)
    with torch.no_grad():
        units = normalize(encoder(tiny.base(), images), dim=1)
        middle = normalize(units.mean(0), dim=0)
        across = torch.randn(8, len(middle), generator=rng)
        across -= (across @ middle)[:, None] * middle
        heads = [100 * normalize(torch.stack([middle + a, middle - a]), dim=1) for a in across]
        exact = torch.stack([predictions(encoder, tiny.base(), images, one) for one in heads])
        before = encoder.forward_images
        found = torch.stack([predictions(half, tiny.base(), images, one) for one in heads])
        spent = encoder.forward_images - before
        monkeypatch.setitem(evaluation.CLOSE, precision, 0.0)
        coarse = torch.stack([predictions(half, tiny.base(), images, one) for one in heads])
    assert 0 < exact.float().mean() < 1
    assert torch.equal(found, exact)
    assert not torch.equal(coarse, exact)
    assert exact.numel() < spent < 2 * exact.numel()


def test_how_something_is_computed_is_in_no_key():
    node = option("backbone", "mini")
    plain = identity(build(node, "backbone"))
    assert not {"micro_batch", "compiled", "precision", "name"} & plain["values"].keys()
    how = {"micro_batch": 8, "compiled": True}
    assert identity(build({**node, **how}, "backbone")) == plain
    half = identity(build({**node, "precision": "bfloat16"}, "backbone"))
    assert half["values"] == {**plain["values"], "precision": "bfloat16"}
