"""Lines over a common axis as hand-written SVG, in the look of `benchmark.scatter`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor

WIDTH, HEIGHT = 480, 280
LEFT, RIGHT, TOP, BOTTOM = 50, 138, 12, 40
COLUMN = WIDTH - RIGHT + 20
"""Where labels start."""
LINE = 16
"""Distance between two labels, in pixels of the drawing."""
Tick = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Series:
    """One line.

    Attributes:
        label: stands at its right end.
        kind: subject, rival, other or reference: its colour.
        points: (x, y) with x rising, in the units of the axes; at least one.
        dashed: for what the solid lines are compared with.
        spread: half lengths of the vertical bars at the points; empty for none.
    """

    label: str
    kind: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    spread: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Axes:
    """What the two directions mean.

    Attributes:
        across: name of the x axis.
        up: name of the y axis.
        places: ticks along x; the axis reaches from the first to the last.
        heights: ticks along y, likewise.
        about: the drawing in one sentence, for those who cannot see it.
        room: how far the axis reaches beyond its first and last place, in units of x.
    """

    across: str
    up: str
    places: Sequence[Tick]
    heights: Sequence[Tick]
    about: str
    room: float = 0.0


def even_ticks(low: float, high: float, steps: Sequence[float]) -> list[Tick]:
    """Ticks at multiples of the smallest step that needs at most eight of them to cover a range."""
    fitting = (one for one in steps if ceil(high / one - 1e-9) - floor(low / one + 1e-9) <= 7)
    step = next(fitting, steps[-1])
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [(step * k, f"{step * k:.4g}") for k in range(first, max(last, first + 1) + 1)]


def lines(series: Sequence[Series], axes: Axes) -> str:
    """An <svg> of the lines, labelled at their right ends; values beyond the axes are cut off."""
    frame = _Frame(axes)
    parts = [frame.grid(), *(frame.drawn(one) for one in series), *frame.labels(series)]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="lines" role="img" '
        f'aria-label="{escape(axes.about)}">'
        f"{''.join(parts)}</svg>"
    )


@dataclass(frozen=True)
class _Frame:
    """Axes with their places in the drawing."""

    axes: Axes

    def x(self, value: float) -> float:
        first = self.axes.places[0][0] - self.axes.room
        last = self.axes.places[-1][0] + self.axes.room
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - first) / (last - first)

    def y(self, value: float) -> float:
        low, high = self.axes.heights[0][0], self.axes.heights[-1][0]
        share = (min(max(value, low), high) - low) / (high - low)
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    def grid(self) -> str:
        parts = []
        for value, label in self.axes.places:
            x = self.x(value)
            parts.append(f'<path class="grid" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
            text = escape(label)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 24}">{text}</text>')
        for value, label in self.axes.heights:
            y = self.y(value)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            place = f'x="{LEFT - 6}" y="{y + 4:.1f}"'
            parts.append(f'<text class="tick side" {place}>{escape(label)}</text>')
        parts.append(
            f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 5}">'
            f'{escape(self.axes.across)}</text><text class="axis" transform="translate(12 '
            f'{(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)">{escape(self.axes.up)}</text>'
        )
        return "".join(parts)

    def drawn(self, one: Series) -> str:
        kind = f"{one.kind} dashed" if one.dashed else one.kind
        places = [(self.x(x), self.y(y)) for x, y in one.points]
        road = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        bars = "".join(
            f"M{self.x(x):.1f} {self.y(y - half):.1f}V{self.y(y + half):.1f}"
            for (x, y), half in zip(one.points, one.spread, strict=False)
        )
        dots = "".join(
            f'<circle class="{one.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
        )
        bars = f'<path class="line {one.kind}" d="{bars}"/>' if bars else ""
        return f'<path class="line {kind}" d="M{road}"/>{bars}{"" if one.dashed else dots}'

    def labels(self, series: Sequence[Series]) -> list[str]:
        """A column of labels right of the axes, in the lines' order, pushed apart."""
        ends = sorted(((self.y(one.points[-1][1]), one) for one in series), key=lambda end: end[0])
        wished, last = [], TOP - LINE + 4.0
        for y, _ in ends:
            last = max(y, last + LINE)
            wished.append(last)
        # A column pushed below the frame moves up as a whole.
        over = max(0.0, last - (HEIGHT - BOTTOM)) if ends else 0.0
        parts = []
        for (y, one), place in zip(ends, wished, strict=True):
            x, at = self.x(one.points[-1][0]), place - over
            lead = f'<path class="lead" d="M{x + 5:.1f} {y:.1f}L{COLUMN - 3} {at:.1f}"/>'
            text = escape(one.label)
            where = f'x="{COLUMN}" y="{at + 4:.1f}"'
            parts.append(f'{lead}<text class="{one.kind}" {where}>{text}</text>')
        return parts
