"""CA against ASR as hand-written SVG: small, the same each time, and in the colours of its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor

from benchmark.tables.rows import Row

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 40
LINE = 17
"""Distance between two labels, in pixels of the drawing."""


@dataclass(frozen=True, slots=True)
class Point:
    """One row's place in the drawing, in pixels."""

    x: float
    y: float
    label: str
    kind: str


def scatter(rows: Sequence[Row], subject: str, references: Sequence[str]) -> str:
    """An <svg> of the rows that have both numbers; ASR to the right, CA upwards, in per cent."""
    known = [row for row in rows if row.mean("asr") is not None and row.mean("ca") is not None]
    heights = [row.mean("ca") or 0.0 for row in known]
    if not known:
        return ""
    low, high = 5 * floor(min(heights) / 5 - 0.4), 5 * ceil(max(heights) / 5 + 0.4)
    points = []
    for row in known:
        name = row.names["defense"]
        kind = "subject" if name == subject else "reference" if name in references else "rival"
        label = f"{name} ({row.variant})" if row.variant else name
        across, up = row.mean("asr") or 0.0, row.mean("ca") or 0.0
        points.append(Point(_x(across), _y(up, low, high), label, kind))
    parts = [_axes(low, high), *_labels(points), *(_dot(point) for point in points)]
    alone = "Clean accuracy against attack success rate; the upper left is best."
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{alone}">'
        f"{''.join(parts)}</svg>"
    )


def _x(value: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * value / 100


def _y(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)


def _axes(low: int, high: int) -> str:
    parts = []
    for value in range(0, 101, 20):
        x = _x(value)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 24}">{value}</text>')
    step = 5 if high - low <= 40 else 10
    for value in range(low, high + 1, step):
        y = _y(value, low, high)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick side" x="{LEFT - 6}" y="{y + 4:.1f}">{value}</text>')
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}">ASR % (lower is '
        f'better)</text><text class="axis" transform="translate(12 {HEIGHT / 2 - 10:.0f}) '
        'rotate(-90)">CA % (higher is better)</text>'
    )
    return "".join(parts)


def _dot(point: Point) -> str:
    radius = 7 if point.kind == "subject" else 5
    where = f'cx="{point.x:.1f}" cy="{point.y:.1f}" r="{radius}"'
    return f'<circle class="{point.kind}" {where}/>'


def _labels(points: Sequence[Point]) -> list[str]:
    """Labels on the roomier side of their points, pushed down where they would overlap."""
    parts = []
    for left in (False, True):
        side = sorted((one for one in points if (one.x > WIDTH / 2) == left), key=lambda one: one.y)
        wished, last = [], TOP - LINE + 4.0
        for point in side:
            last = max(point.y, last + LINE)
            wished.append(last)
        # A column pushed below the frame moves up as a whole.
        over = max(0.0, last - (HEIGHT - BOTTOM - 4)) if side else 0.0
        for point, y in zip(side, wished, strict=True):
            parts.append(_label(point, max(y - over, TOP + 4.0), left))
    return parts


def _label(point: Point, y: float, left: bool) -> str:
    moved = abs(y - point.y) > 3
    away = 26 if moved else 12
    x = point.x - away if left else point.x + away
    inner = x + 3 if left else x - 3
    side = " side" if left else ""
    lead = f'<path class="lead" d="M{point.x:.1f} {point.y:.1f}L{inner:.1f} {y:.1f}"/>'
    return (
        lead if moved else ""
    ) + f'<text class="{point.kind}{side}" x="{x:.1f}" y="{y + 4:.1f}">{escape(point.label)}</text>'
