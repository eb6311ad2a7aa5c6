"""What a diagnosis found, drawn: linearity per layer, and CA and ASR along the line. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

from benchmark.diagnostics.findings import Findings, Layer
from benchmark.lines import Axes, Series, Tick, even_ticks, lines

KINDS = {"clean": "reference", "triggered": "rival", "prompted": "subject"}
"""Colours of the inputs."""
ORDER = ("subject", "rival", "other")
"""Colours of the curves: the cell's own, then those beside it."""
SMALLEST = 1e-8
"""Distances below are drawn here: rounding errors."""
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100)


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure.

    Attributes:
        name: of its file, without the suffix.
        caption: in words.
        svg: with classes, without colours.
    """

    name: str
    caption: str
    svg: str


def drawings(findings: Findings) -> list[Drawing]:
    """Every figure that the findings have numbers for."""
    made = [] if not findings.layers else [_distances(findings), _coefficients(findings)]
    if findings.curves:
        made += [
            _curve(findings, "ca", "CA %", "Clean accuracy"),
            _curve(findings, "asr", "ASR %", "Attack success rate"),
        ]
    return made


def shown(findings: Findings, inputs: str, comparison: str) -> list[Layer]:
    """Layers of the first victim's images, in the order of the forward pass."""
    return [
        layer
        for layer in findings.layers
        if (layer.task, layer.inputs, layer.comparison) == (findings.victims[0], inputs, comparison)
    ]


def _distances(findings: Findings) -> Drawing:
    series, lowest = [], 0.0
    for inputs, kind in KINDS.items():
        for comparison, label in (("line", inputs), ("ends", f"{inputs}, ends")):
            found = shown(findings, inputs, comparison)
            points = [
                (float(at), log10(max(layer.numbers["distance"], SMALLEST)))
                for at, layer in enumerate(found)
            ]
            if points:
                lowest = min(lowest, *(y for _, y in points))
                series.append(Series(label, kind, points, dashed=comparison == "ends"))
    exponents = range(min(floor(lowest), -1), 1)
    heights = [(float(one), f"10{str(one).translate(RAISED)}") for one in exponents]
    about = (
        f"Linearity, distance (1−cos): solid, features at {findings.alpha:g} of the weight "
        "path against the same point of the feature line; dashed, its two ends against each other "
        f"({findings.victims[0]}; 0 is linear)"
    )
    return Drawing("ctl_distance", about, _by_layer(findings, series, heights, "1−cos", about))


def _coefficients(findings: Findings) -> Drawing:
    series = []
    for shift, (inputs, kind) in enumerate(KINDS.items()):
        found = shown(findings, inputs, "line")
        # A little to the side, so that the bars do not hide each other.
        points = [
            (at + 0.09 * (shift - 1), layer.numbers["coefficient"])
            for at, layer in enumerate(found)
        ]
        spread = [layer.numbers["coefficient_std"] for layer in found]
        if points:
            series.append(Series(inputs, kind, points, spread=spread))
    reach = [
        y + sign * half
        for one in series
        for (_, y), half in zip(one.points, one.spread, strict=True)
        for sign in (-1, 1)
    ]
    heights = even_ticks(min(0.95, *reach), max(1.05, *reach), STEPS)
    about = (
        f"Linearity, coefficient: length of the features at {findings.alpha:g} of the weight path "
        f"along the feature line, bars of one standard deviation over images "
        f"({findings.victims[0]}; 1 is linear)"
    )
    return Drawing(
        "ctl_coefficient", about, _by_layer(findings, series, heights, "coefficient", about)
    )


def _by_layer(
    findings: Findings, series: Sequence[Series], heights: Sequence[Tick], up: str, about: str
) -> str:
    names = list(dict.fromkeys(layer.layer for layer in findings.layers))
    places = [(float(at), name) for at, name in enumerate(names)]
    return lines(series, Axes("layer", up, places, heights, about, room=0.2))


def _curve(findings: Findings, value: str, up: str, title: str) -> Drawing:
    series, curves = [], findings.curves
    for at, one in enumerate(curves):
        points = [(place.alpha, 100 * getattr(place, value)) for place in one.points]
        series.append(Series(one.label, ORDER[min(at, len(ORDER) - 1)], points))
    ends = [place.alpha for one in curves for place in one.points]
    places = even_ticks(min(ends), max(ends), (0.25, 0.5, 1.0))
    level = 100 * getattr(curves[0].points[0], value)
    edge = (places[0][0], level), (places[-1][0], level)
    series.append(Series("undefended", "reference", edge, dashed=True))
    values = [y for one in series for _, y in one.points]
    low, high = (0.0, 100.0) if value == "asr" else (min(values), max(values))
    heights = even_ticks(low, high, (1, 2, 5, 10, 20))
    about = (
        f"{title} on the line from the undefended (0) to the defended model (1) and beyond "
        f"({findings.measured})"
    )
    axes = Axes("share of the way from undefended to defended", up, places, heights, about)
    return Drawing(f"curve_{value}", about, lines(series, axes))
