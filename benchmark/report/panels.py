"""CA and ASR along the line from undefended to defended, and per task: drawings without labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from benchmark.lines import Axes, Series, even_ticks, lines
from benchmark.records import Count, Evaluation, Record

WIDTH, HEIGHT = 220, 132
LEFT, RIGHT, TOP, BOTTOM = 26, 6, 6, 20
Line = Sequence[tuple[float, float]]


def rates(found: Evaluation) -> tuple[float, float] | None:
    """(CA, ASR) in per cent: CA the mean over tasks, ASR of the threat that is worst.

    None where a task or every threat has no image.
    """
    asr = [100 * one.asr.rate for one in found.threats if one.asr.total]
    if not asr or not found.clean or not all(one.total for one in found.clean.values()):
        return None
    return 100 * fmean(one.rate for one in found.clean.values()), max(asr)


def curves(records: Iterable[Record]) -> list[tuple[Line, Line]]:
    """Per record that has a curve: CA over s and ASR over s, in per cent."""
    made = []
    for record in records:
        known = [(at.scale, both) for at in record.curve if (both := rates(at.evaluation))]
        if known:
            made.append(([(s, ca) for s, (ca, _) in known], [(s, asr) for s, (_, asr) in known]))
    return made


def mean_line(every: Sequence[Line]) -> Line:
    """The mean of lines at the places that all of them have."""
    shared = set.intersection(*({x for x, _ in one} for one in every))
    tables = [dict(one) for one in every]
    return [(x, fmean(table[x] for table in tables)) for x in sorted(shared)]


def panel(found: Sequence[tuple[Line, Line]], about: str) -> str:
    """A small <svg> of CA (solid) and ASR (dashed): faint per seed, strong their means.

    Args:
        found: from `curves`; at least one.
        about: the drawing in one sentence, escaped.
    """
    last = max(x for ca, _ in found for x, _ in ca)
    parts = [_grid(last)]
    for at, kind in ((0, "subject"), (1, "rival dashed")):
        each = [pair[at] for pair in found]
        if len(each) > 1:
            parts += [f'<path class="line faint {kind}" d="{_road(one, last)}"/>' for one in each]
        parts.append(f'<path class="line {kind}" d="{_road(mean_line(each), last)}"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="panel" role="img" aria-label="{about}">'
        f"{''.join(parts)}</svg>"
    )


def _place(x: float, y: float, last: float) -> str:
    across = LEFT + (WIDTH - LEFT - RIGHT) * x / (last or 1.0)
    return f"{across:.1f} {HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / 100:.1f}"


def _road(line: Line, last: float) -> str:
    return "M" + "L".join(_place(x, y, last) for x, y in line)


def _grid(last: float) -> str:
    parts = []
    for level in (0, 50, 100):
        start, end = _place(0, level, last), _place(last, level, last)
        height = float(start.split()[1]) + 4
        parts.append(f'<path class="grid" d="M{start}L{end}"/>')
        parts.append(f'<text class="tick side" x="{LEFT - 4}" y="{height:.1f}">{level}</text>')
    for s in (0.0, 1.0):
        if s <= last:
            across = _place(s, 0, last).split()[0]
            label = f'<text class="tick" x="{across}" y="{HEIGHT - 5}">{s:g}</text>'
            parts.append(f'<path class="grid" d="M{across} {TOP}V{HEIGHT - BOTTOM}"/>{label}')
    return "".join(parts)


def large(found: Sequence[tuple[Line, Line]], seeds: Sequence[int]) -> str:
    """The same as one large <svg> with axes and labels.

    Args:
        found: from `curves`; at least one.
        seeds: of the curves.
    """
    series = []
    for at, (label, kind) in enumerate((("CA", "subject"), ("ASR", "rival"))):
        each = [pair[at] for pair in found]
        series.append(Series(label, kind, mean_line(each)))
        if len(each) > 1:
            named = zip(each, seeds, strict=True)
            series += [Series(f"seed {seed}", kind, one, dashed=True) for one, seed in named]
    last = max(x for ca, _ in found for x, _ in ca)
    axes = Axes(
        across="share of the way from undefended to defended",
        up="%",
        places=even_ticks(0.0, last, (0.25, 0.5, 1.0)),
        heights=[(float(level), str(level)) for level in range(0, 101, 20)],
        about="Clean accuracy and attack success rate along the line to the defended model",
    )
    return lines(series, axes)


def per_task(found: Iterable[Evaluation | None]) -> dict[str, float]:
    """Task -> clean accuracy in per cent, the mean over evaluations."""
    numbers: dict[str, list[float]] = {}
    for one in found:
        for task, count in _clean(one).items():
            if count.total:
                numbers.setdefault(task, []).append(100 * count.rate)
    return {task: fmean(values) for task, values in numbers.items()}


def _clean(found: Evaluation | None) -> Mapping[str, Count]:
    return {} if found is None else found.clean
