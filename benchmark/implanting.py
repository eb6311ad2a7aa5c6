"""Whether an attack planted what it wanted to: judged on dev images, before any merge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.evaluation import TestSet, evaluate
from benchmark.store import Artifact

if TYPE_CHECKING:
    from benchmark.bench import Bench
    from benchmark.types import StateDict, Threat


def judged(bench: Bench) -> Artifact:
    """The attack's verdict and the controls it was given.

    `asr` is the lowest of its threats, each on the first of its attackers' uploads; without one, on
    the base. An attack that has a method `rehearsed` works on what that makes of the uploads only:
    then `asr` is measured there, and `asr_alone` is the highest of any threat on any upload.
    """
    attack, planted = bench.cell.attack, bench.compromise()
    uploads, threats = planted.experts, planted.threats
    if (rehearsed := getattr(attack, "rehearsed", None)) is not None:
        together = rehearsed(bench.base, uploads)
        controls = {
            "asr": min(_rate(bench, together, threat) for threat in threats),
            "asr_alone": max(
                _rate(bench, upload.weights, threat)
                for upload in uploads.values()
                for threat in threats
            ),
        }
    else:
        single = [
            uploads[threat.attackers[0]].weights if threat.attackers else bench.base
            for threat in threats
        ]
        rates = [_rate(bench, *one) for one in zip(single, threats, strict=True)]
        controls = {"asr": min(rates)}
    return {}, {**controls, "reason": attack.implanted(controls)}


def _rate(bench: Bench, weights: StateDict, threat: Threat) -> float:
    """Attack success rate on all dev images of the threat's task."""
    images, labels = bench.split(threat.task, "dev")
    tests = {threat.task: TestSet(images, labels, bench.head(threat.task))}
    counts, _ = evaluate(bench.encoder, weights, tests, [threat], flip_images=1)
    return counts.threats[0].asr.rate
