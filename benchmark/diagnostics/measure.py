"""Measures a cell whose stages are there: linearity per layer, sheets of prompts, curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.bench import Bench
from benchmark.context import handing_order
from benchmark.diagnostics.ctl import encoder_layers, linearity
from benchmark.diagnostics.findings import Curve, CurvePoint, Findings, Layer, Sheet, write
from benchmark.diagnostics.settings import Diagnosis
from benchmark.diagnostics.sheets import given, prompts_of, sheet
from benchmark.errors import BenchError
from benchmark.models.heads import behind
from benchmark.png import png
from benchmark.records import Evaluation, Record
from benchmark.store import write_atomic
from benchmark.types import Threat

if TYPE_CHECKING:
    from torch import Tensor

Prompts = Mapping[str, "tuple[Tensor, Tensor]"]


def diagnose(
    bench: Bench, settings: Diagnosis, records: Mapping[str, Record], command: str, out: Path
) -> Findings:
    """Measure a cell and write what is found to a folder.

    Args:
        bench: of the cell; its models are in the store.
        settings: what is measured.
        records: label -> record, of the cell itself first.
        command: what makes this again.
        out: the folder.
    """
    threats = bench.compromise().threats
    prompts = prompts_of(bench.defended("attacked").artifacts)
    own, suite = next(iter(records.values())), bench.cell.suite
    findings = Findings(
        names=dict(own.names),
        seed=own.seed,
        key=own.key,
        command=command,
        victims=tuple(dict.fromkeys(threat.task for threat in threats)),
        alpha=settings.alpha,
        layers=tuple(_layers(bench, settings, threats, prompts)),
        curves=tuple(curve(label, one) for label, one in records.items() if one.curve),
        measured=f"at most {suite.curve_images} {suite.evaluate} images per task",
        sheets=tuple(_sheets(bench, threats, prompts, out)),
        missing={label: _why(one) for label, one in records.items() if not one.curve},
        made=dict(bench.store.made),
    )
    write(out, findings)
    return findings


def _why(record: Record) -> str:
    return record.reason or "this suite and defence have no curve"


def curve(label: str, record: Record) -> Curve:
    """The curve of a record as rates."""
    points = [_point(point.scale, point.evaluation) for point in record.curve]
    return Curve(label, record.key, tuple(points))


def _point(alpha: float, found: Evaluation) -> CurvePoint:
    rates = [count.rate for count in found.clean.values()]
    return CurvePoint(
        alpha=alpha,
        ca=sum(rates) / len(rates),
        asr=max(threat.asr.rate for threat in found.threats),
        target_recall=min(threat.target_recall.rate for threat in found.threats),
    )


def unseen(bench: Bench, task: str, count: int) -> Tensor:
    """At most `count` dev images (N,3,S,S) in [0,1] that no component was granted."""
    images, _ = bench.split(task, "dev")
    granted = bench.cell.suite.granted
    left = handing_order(bench.cell.seed, task, "dev", len(images))[granted:][:count]
    if not len(left):
        raise BenchError(
            f"task '{task}' has {len(images)} dev images and suite.granted={granted}: none is left "
            "to look at; lower suite.granted and budget.images"
        )
    return images[left].float() / 255


def _layers(
    bench: Bench, settings: Diagnosis, threats: Sequence[Threat], prompts: Prompts
) -> Iterator[Layer]:
    ends = bench.model("undefended"), bench.model("main")
    encoders = ends[0].encoder, ends[1].encoder
    for task in bench.cell.suite.tasks:
        images = unseen(bench, task, settings.images)
        for inputs, shown in _variants(task, images, threats, prompts):
            # Both ends behind the undefended merge's adapters: the encoders are what is compared.
            head = behind(bench.head(task), ends[0].adapters.get(task))
            batches = encoder_layers(bench.encoder, shown, head)
            for layer, kinds in linearity(batches, *encoders, settings.alpha).items():
                for kind, numbers in kinds.items():
                    rounded = {name: float(f"{x:.6g}") for name, x in asdict(numbers).items()}
                    yield Layer(task, inputs, layer, kind, rounded)


def _variants(
    task: str, images: Tensor, threats: Sequence[Threat], prompts: Prompts
) -> Iterator[tuple[str, Tensor]]:
    """The same images clean, with every trigger against this task, and with mined prompts."""
    import torch

    yield "clean", images
    aimed = [threat.trigger(images) for threat in threats if threat.task == task]
    if aimed:
        yield "triggered", torch.cat(aimed)
    if task in prompts:
        yield "prompted", given(images, *(one.to(images.device) for one in prompts[task]))


def _sheets(
    bench: Bench, threats: Sequence[Threat], prompts: Prompts, out: Path
) -> Iterator[Sheet]:
    triggers = {threat.task: threat.trigger for threat in threats}
    for task in sorted(prompts, key=lambda one: one not in triggers):
        values, masks = prompts[task]
        picture = unseen(bench, task, 1)[0]
        file = f"prompts/{task}.png"
        aim, trigger = (task, triggers[task]) if task in triggers else next(iter(triggers.items()))
        pixels = sheet(picture.cpu(), values.cpu(), masks.cpu(), trigger)
        write_atomic(out / file, png(pixels))
        caption = (
            f"{task}: an image with the true trigger (aimed at {aim}) and with the first mined "
            f"prompt; the trigger alone; the {len(values)} mined prompts of this task alone"
        )
        yield Sheet(task, file, caption)
