"""Counts are what their definitions say, on a tiny real tower and on known predictors."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.attacks.triggers import Patch
from benchmark.evaluation import TestSet, evaluate, pack
from benchmark.models.heads import logits
from benchmark.seeds import generator
from benchmark.types import Threat
from tests import tiny

TARGET = 1
BASE = tiny.base()


def patch(size: int = 4) -> Patch:
    return Patch(torch.rand(3, size, size, generator=generator("patch")), 16 - size, 16 - size)


def both_sets(count: int = 37) -> dict[str, TestSet]:
    made = {task: tiny.split(task, "test", count) for task in ("a", "b")}
    return {task: TestSet(*data, tiny.head(task)) for task, data in made.items()}


THREAT = Threat(patch(), "a", TARGET, ("a",))


def measure(sets, threats=(THREAT,), encoder=None, **options):
    options = {"flip_images": 20, **options}
    return evaluate(encoder or tiny.encoder(), BASE, sets, list(threats), **options)


def predict(images: Tensor, head: Tensor) -> int:
    with torch.no_grad():
        return int(logits(tiny.encoder()(BASE, images), head).argmax(1))


def test_counts_equal_a_naive_loop_over_single_images():
    sets = both_sets()
    found, _ = measure(sets)
    (threat,) = found.threats
    shuffled = THREAT.trigger.shuffled(generator("occlusion", 0))
    hits = dict.fromkeys(("clean", "asr", "rate", "recall", "right", "flip", "flip_s"), 0)
    others = 0
    for image, label in zip(sets["a"].images, sets["a"].labels.tolist(), strict=True):
        pixels, head = image[None].float() / 255, sets["a"].head
        clean, triggered = predict(pixels, head), predict(THREAT.trigger(pixels), head)
        hits["clean"] += clean == label
        hits["right"] += triggered == label
        hits["recall"] += label == TARGET and clean == TARGET
        others += label != TARGET
        hits["asr"] += label != TARGET and triggered == TARGET
        hits["rate"] += label != TARGET and clean == TARGET
    known = 0
    for image, label in zip(sets["b"].images[:20], sets["b"].labels[:20].tolist(), strict=True):
        pixels, head = image[None].float() / 255, sets["b"].head
        if predict(pixels, head) == label:
            known += 1
            hits["flip"] += predict(THREAT.trigger(pixels), head) != label
            hits["flip_s"] += predict(shuffled(pixels), head) != label
    assert found.clean["a"].hits == hits["clean"]
    assert (threat.asr.hits, threat.asr.total) == (hits["asr"], others)
    assert (threat.target_rate.hits, threat.target_rate.total) == (hits["rate"], others)
    assert (threat.target_recall.hits, threat.target_recall.total) == (
        hits["recall"],
        37 - others,
    )
    assert threat.triggered_acc.hits == hits["right"]
    assert threat.misclassified.hits == 37 - hits["right"]
    assert (threat.flipped["b"].hits, threat.flipped["b"].total) == (hits["flip"], known)
    assert threat.flipped_shuffled["b"].hits == hits["flip_s"]


@pytest.mark.parametrize("batch", [1, 5, 37, 500])
def test_batch_size_changes_nothing(batch):
    assert measure(both_sets(), batch=batch)[0] == measure(both_sets())[0]


class Fixed:
    """An encoder whose features point at the class that `choose` names."""

    device, precision = "cpu", "float32"

    def __init__(self, choose):
        self.choose = choose

    def __call__(self, weights, images):
        return torch.nn.functional.one_hot(self.choose(images), 4).float()


def fixed_sets(count=40):
    """Images whose first pixel is their label; the head reads the encoder's one-hot features."""
    labels = torch.arange(count) % 4
    images = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
    images[:, 0, 0, 0] = labels.to(torch.uint8)
    return {"a": TestSet(images, labels, torch.eye(4))}


def test_a_predictor_that_always_says_the_target_has_asr_1():
    always = Fixed(lambda images: torch.full((len(images),), TARGET))
    found, _ = measure(fixed_sets(), encoder=always)
    assert found.threats[0].asr.rate == 1
    assert found.threats[0].target_recall.rate == 1
    assert found.clean["a"].rate == 0.25


def test_a_predictor_that_is_always_right_has_asr_0():
    right = Fixed(lambda images: (images[:, 0, 0, 0] * 255).round().long())
    found, _ = measure(fixed_sets(), encoder=right)
    assert found.threats[0].asr.hits == 0
    assert found.threats[0].triggered_acc.rate == found.clean["a"].rate == 1


def test_images_of_the_target_class_do_not_count_for_asr():
    sets = both_sets()
    other = sets["a"].labels != TARGET
    fewer = {**sets, "a": TestSet(sets["a"].images[other], sets["a"].labels[other], sets["a"].head)}
    assert measure(sets)[0].threats[0].asr == measure(fewer)[0].threats[0].asr


def test_no_gradient_and_each_image_once_per_variant():
    encoder = tiny.encoder()
    measure(both_sets(), encoder=encoder)
    assert encoder.backward_images == 0
    # 37 clean and 37 triggered of the victim; 37 clean of the other task, 20 and 20 for flips,
    # where a batch is only skipped as a whole.
    assert encoder.forward_images <= 37 * 2 + 37 * 3


def test_packed_hits_give_the_counts_back():
    found, hits = measure(both_sets())
    packed = pack(hits)
    labels = both_sets()["a"].labels
    asr = np.unpackbits(packed["0/asr"].numpy())[:37].astype(bool)
    assert int(asr[(labels != TARGET).numpy()].sum()) == found.threats[0].asr.hits
    assert np.unpackbits(packed["clean/b"].numpy()).sum() == found.clean["b"].hits


def test_two_threats_are_each_measured_alone():
    other = Threat(patch(3), "b", 2, ())
    both, _ = measure(both_sets(), (THREAT, other))
    (alone,) = measure(both_sets(), (THREAT,))[0].threats
    assert both.threats[0] == alone
    assert both.threats[1].task == "b"
