"""CA against ASR as hand-written SVG: small, the same each time, and in the colours of its page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor

from benchmark.tables.metrics import UNDEFENDED
from benchmark.tables.reading import dominating
from benchmark.tables.rows import Row

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 40
LINE, LETTER = 16, 7.2
"""Height of a label and width of a letter, in pixels of the drawing."""
STEPS = 36
"""How far labels may move, in thirds of a line."""


Link = Callable[[Row], str | None]
"""Where a row leads to, if anywhere."""


def nowhere(row: Row) -> None:
    """The link of a page that is alone."""


@dataclass(frozen=True, slots=True)
class Point:
    """One row's place in the drawing, in pixels, and what is said of it."""

    x: float
    y: float
    label: str
    kind: str
    words: str
    href: str | None = None


def scatter(
    rows: Sequence[Row], subject: str, references: Sequence[str], link: Link = nowhere
) -> str:
    """An <svg> of the rows that have both numbers; ASR to the right, CA upwards, in per cent.

    Beside the rows it shows the clean merge of every undefended one, under the same trigger, and
    a line through the ranked rows that none of them beats in ASR and CA alike.

    Args:
        rows: of one group of comparable cells.
        subject: the defence that is pointed at.
        references: defences that are not ranked.
        link: where a row's point leads to.
    """
    known = [row for row in rows if row.mean("asr") is not None and row.mean("ca") is not None]
    if not known:
        return ""
    clean = {place: _clean_label(row) for row in known if (place := _clean_place(row))}
    heights = [row.mean("ca") or 0.0 for row in known] + [ca for _, ca in clean]
    low, high = 5 * floor(min(heights) / 5 - 0.4), 5 * ceil(max(heights) / 5 + 0.4)
    points = [_point((asr, ca), label, "clean", (low, high)) for (asr, ca), label in clean.items()]
    for row in known:
        name = row.names["defense"]
        kind = "subject" if name == subject else "reference" if name in references else "rival"
        label = f"{name} ({row.variant})" if row.variant else name
        place = row.mean("asr") or 0.0, row.mean("ca") or 0.0
        points.append(_point(place, label, kind, (low, high), link(row)))
    ranked = [row for row in known if row.names["defense"] not in references]
    parts = [_axes(low, high), _front(ranked, low, high), *_labels(points)]
    alone = "Clean accuracy against attack success rate; the upper left is best."
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{alone}">'
        f"{''.join(parts)}{''.join(_dot(point) for point in points)}</svg>"
    )


def _clean_place(row: Row) -> tuple[float, float] | None:
    """(ASR, CA) of an undefended row's clean merge, where no attack took part."""
    asr, ca = row.mean("asr_clean_merge"), row.mean("ca_clean_merge")
    attacked = row.names["defense"] == UNDEFENDED and row.names["attack"] != "none"
    return None if not attacked or asr is None or ca is None else (asr, ca)


def _clean_label(row: Row) -> str:
    return f"clean merge ({row.variant})" if row.variant else "clean merge"


def _point(
    place: tuple[float, float],
    label: str,
    kind: str,
    heights: tuple[float, float],
    href: str | None = None,
) -> Point:
    asr, ca = place
    words = f"{label}: ASR {asr:.1f} %, CA {ca:.1f} %"
    return Point(_x(asr), _y(ca, *heights), label, kind, words, href)


def _front(ranked: Sequence[Row], low: float, high: float) -> str:
    """A staircase from the lowest ASR to the right edge; what lies below it is beaten."""
    best = [row for row in ranked if not dominating(row, ranked)]
    places = sorted({(row.mean("asr") or 0.0, row.mean("ca") or 0.0) for row in best})
    if len(places) < 2:
        return ""
    steps = f"M{_x(places[0][0]):.1f} {_y(low, low, high):.1f}"
    steps += "".join(f"V{_y(ca, low, high):.1f}H{_x(asr):.1f}" for asr, ca in _corners(places))
    return f'<path class="front" d="{steps}"/>'


def _corners(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of each place its height, and where the next one begins."""
    ends = [asr for asr, _ in places[1:]] + [100.0]
    return [(end, ca) for end, (_, ca) in zip(ends, places, strict=True)]


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
    dot = f'<circle class="{point.kind}" {where}><title>{escape(point.words)}</title></circle>'
    if point.href is None:
        return dot
    return f'<a href="{escape(point.href)}" aria-label="{escape(point.words)}">{dot}</a>'


def _labels(points: Sequence[Point]) -> list[str]:
    """A label beside each point, where it hides neither a point nor another label."""
    taken = [Box(one.x - 7, one.y - 7, one.x + 7, one.y + 7) for one in points]
    parts = []
    for point in sorted(points, key=lambda one: one.kind != "subject"):
        place = min(_places(point), key=lambda one: _cost(one, point, taken))
        taken.append(place.box)
        parts.append(_label(point, place))
    return parts


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of the drawing."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Box) -> float:
        """The area that lies in both."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a label might stand: its box, its anchor and the side of its point."""

    box: Box
    x: float
    y: float
    left: bool


def _places(point: Point) -> Iterator[Place]:
    wide = LETTER * len(point.label)
    for step in range(-STEPS, STEPS + 1):
        y = point.y + step * LINE / 3
        away = 12 if abs(step) <= 1 else 26
        for left in (False, True):
            x = point.x - away if left else point.x + away
            edge = x - wide if left else x
            yield Place(Box(edge, y - LINE / 2, edge + wide, y + LINE / 2), x, y, left)


def _cost(place: Place, point: Point, taken: Sequence[Box]) -> float:
    """Hiding things is worst, leaving the frame worse than being far from the point."""
    frame = Box(LEFT, TOP - 4, WIDTH, HEIGHT - BOTTOM - 2)
    box = place.box
    outside = (box.right - box.left) * (box.bottom - box.top) - box.shared(frame)
    hidden = sum(box.shared(one) for one in taken)
    against = 8.0 if place.left == (point.x <= WIDTH / 2) else 0.0
    return 20 * hidden + 10 * outside + abs(place.y - point.y) + against


def _label(point: Point, place: Place) -> str:
    side, inner = (" side", place.x + 3) if place.left else ("", place.x - 3)
    lead = f'<path class="lead" d="M{point.x:.1f} {point.y:.1f}L{inner:.1f} {place.y:.1f}"/>'
    where = f'x="{place.x:.1f}" y="{place.y + 4:.1f}"'
    text = f'<text class="{point.kind}{side}" {where}>{escape(point.label)}</text>'
    return (lead if abs(place.y - point.y) > LINE / 2 else "") + text
