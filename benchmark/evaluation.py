"""Clean accuracy and every attack success rate of one model, in one pass over its test images.

Test images stay uint8; they are normalised and triggered on the device, batch by batch, and hits
are counted there: no Python loop over images, no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from benchmark.models.heads import Adapted, Head, behind, logits
from benchmark.records import Count, Evaluation, ThreatCounts
from benchmark.seeds import generator
from benchmark.types import StateDict, Threat, Trigger

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.context import Progress
    from benchmark.models.encoder import Encoder

CLOSE = {"float32": 0.0, "bfloat16": 0.01, "float16": 0.01 / 8}
"""Predictions this close are made again in float32: of unit features, along the line between the
two best classes. On the embedded suite no count depends on the precision then
(docs/paper_scale.md); a network with larger rounding errors may need more."""

CPU_BATCH, GPU_BATCH = 50, 250
"""Test images per call: activations that stay in a CPU's cache, or enough to fill a GPU."""

Hits = dict[str, "Tensor"]
"""Name -> (N,) bool, one entry per test image, in stored order."""


@dataclass(frozen=True)
class TestSet:
    """Test images (N,3,H,W) uint8, labels (N,) int64 and zero-shot head (C,D) of one task."""

    __test__ = False  # not a pytest class

    images: Tensor
    labels: Tensor
    head: Tensor


def evaluate(
    encoder: Encoder,
    weights: StateDict,
    tests: Mapping[str, TestSet],
    threats: Sequence[Threat],
    *,
    adapters: Mapping[str, StateDict] | None = None,
    flip_images: int,
    batch: int | None = None,
    progress: Progress | None = None,
) -> tuple[Evaluation, Hits]:
    """Measure a model.

    Args:
        encoder: the image tower.
        weights: its weights.
        tests: task -> test set; a threat whose task is missing here is an error.
        threats: the triggers to try, each against its task's target class.
        adapters: task -> the adapter that the model brings for it, if any.
        flip_images: how many images of each other task also get the trigger; with 0 no flips are
            counted.
        batch: test images per encoder call and variant; None: what suits the encoder's device.
        progress: called with (tasks done, tasks).

    Returns:
        Counts (with an empty key) and the per-image hits they were counted from: `clean/<task>`,
        `<i>/asr` (all images of the target task, target class included), `<i>/clean_to_target`,
        `<i>/correct`, `<i>/flipped/<task>`, `<i>/flipped_shuffled/<task>`.
    """
    hits: Hits = {}
    if batch is None:
        batch = CPU_BATCH if torch.device(encoder.device).type == "cpu" else GPU_BATCH
    with torch.no_grad():
        for done, (task, test) in enumerate(tests.items()):
            head = behind(test.head, (adapters or {}).get(task))
            hits |= _task_hits(encoder, weights, task, test, head, threats, flip_images, batch)
            if progress is not None:
                progress(done + 1, len(tests))
    clean = {task: _count(hits[f"clean/{task}"]) for task in tests}
    counted = tuple(_threat_counts(i, threat, tests, hits) for i, threat in enumerate(threats))
    return Evaluation("", clean, counted), {name: hit.cpu() for name, hit in hits.items()}


def _task_hits(
    encoder: Encoder,
    weights: StateDict,
    task: str,
    test: TestSet,
    head: Head,
    threats: Sequence[Threat],
    flip_images: int,
    batch: int,
) -> Hits:
    """Per-image hits of one task: predictions of every variant, compared on the device."""
    variants = _variants(task, threats)
    parts: dict[str, list[Tensor]] = {name: [] for name in variants}
    for start in range(0, len(test.images), batch):
        images = test.images[start : start + batch].to(encoder.device).float() / 255
        wanted = {
            name: trigger(images) if trigger else images
            for name, (trigger, everywhere) in variants.items()
            if everywhere or start < flip_images
        }
        stacked = torch.cat(list(wanted.values()))
        predicted = predictions(encoder, weights, stacked, head)
        for name, part in zip(wanted, predicted.split(len(images)), strict=True):
            parts[name].append(part)
    found = {name: torch.cat(part) for name, part in parts.items() if part}
    return _compare(task, test.labels.to(encoder.device), found, threats, flip_images)


def predictions(encoder: Encoder, weights: StateDict, images: Tensor, head: Head) -> Tensor:
    """The class of each image, (B,) int64.

    At less than float32, images whose two best classes are closer than the encoder's rounding can
    tell (`CLOSE`) are encoded again in float32, so that counts hardly depend on the precision.
    """
    scores = logits(encoder(weights, images), head)
    predicted = scores.argmax(1)
    slack = CLOSE[encoder.precision]
    if slack == 0 or len(head) == 1:
        return predicted
    best = scores.topk(2)
    rows = head.rows if isinstance(head, Adapted) else head
    apart = (rows[best.indices[:, 0]] - rows[best.indices[:, 1]]).norm(dim=1)
    close = best.values[:, 0] - best.values[:, 1] < slack * apart
    if close.any():
        fine = encoder.at("float32")
        predicted[close] = logits(fine(weights, images[close]), head).argmax(1)
    return predicted


def _variants(task: str, threats: Sequence[Threat]) -> dict[str, tuple[Trigger | None, bool]]:
    """Name -> (trigger or None for clean, on all images or only on the first few)."""
    variants: dict[str, tuple[Trigger | None, bool]] = {"clean": (None, True)}
    for i, threat in enumerate(threats):
        if threat.task == task:
            variants[f"{i}"] = (threat.trigger, True)
        else:
            variants[f"{i}/flipped"] = (threat.trigger, False)
            variants[f"{i}/flipped_shuffled"] = (
                threat.trigger.shuffled(generator("occlusion", i)),
                False,
            )
    return variants


def _compare(
    task: str,
    labels: Tensor,
    found: Mapping[str, Tensor],
    threats: Sequence[Threat],
    flip_images: int,
) -> Hits:
    right = found["clean"] == labels
    hits: Hits = {f"clean/{task}": right}
    for i, threat in enumerate(threats):
        if threat.task == task:
            hits[f"{i}/asr"] = found[f"{i}"] == threat.target
            hits[f"{i}/clean_to_target"] = found["clean"] == threat.target
            hits[f"{i}/correct"] = found[f"{i}"] == labels
            continue
        first = right[:flip_images]
        for kind in ("flipped", "flipped_shuffled") if flip_images else ():
            changed = found[f"{i}/{kind}"][:flip_images] != labels[:flip_images]
            hits[f"{i}/{kind}/{task}"] = changed[first]
    return hits


def _threat_counts(
    i: int, threat: Threat, tests: Mapping[str, TestSet], hits: Hits
) -> ThreatCounts:
    labels = tests[threat.task].labels.to(hits[f"{i}/asr"].device)
    others = labels != threat.target
    correct = hits[f"{i}/correct"]
    flips = {
        kind: {t: _count(hits[f"{i}/{kind}/{t}"]) for t in tests if f"{i}/{kind}/{t}" in hits}
        for kind in ("flipped", "flipped_shuffled")
    }
    return ThreatCounts(
        task=threat.task,
        target=threat.target,
        asr=_count(hits[f"{i}/asr"][others]),
        target_rate=_count(hits[f"{i}/clean_to_target"][others]),
        target_recall=_count(hits[f"clean/{threat.task}"][~others]),
        triggered_acc=_count(correct),
        misclassified=_count(~correct),
        **flips,
    )


def _count(hits: Tensor) -> Count:
    return Count(int(hits.sum()), hits.numel())


def pack(hits: Hits) -> dict[str, Tensor]:
    """Hits as uint8 tensors of 8 images each (numpy.packbits); lengths are in the counts."""
    import numpy as np

    return {name: torch.from_numpy(np.packbits(hit.numpy())) for name, hit in hits.items()}
