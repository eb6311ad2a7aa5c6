"""The report: one file that loads nothing, says everything, and is the same each time."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.report import Page, Picture, controls, render_report, write_report
from benchmark.scatter import LETTER, scatter
from benchmark.tables import make, rows
from tests.made_records import demo, evaluation, record

PICTURE = np.zeros((8, 8, 3), dtype=np.uint8)


def page() -> Page:
    return Page(
        tables=[make("demo", demo())],
        records=demo(),
        pictures=[Picture("a", "without <trigger>", PICTURE, "k"), Picture("b", "b", PICTURE, "k")],
        provenance={"commit": "abc1234", "versions": {"torch": "2.6"}, "seconds": 3.25},
        command="make demo",
    )


def outward(text: str) -> list[str]:
    """Whatever a page refers to, but for places in itself."""
    found = re.findall(r"""(?:src|href)=["']([^"'#][^"']*)|url\(|@import""", text)
    inside = set(re.findall(r'href="#([^"]+)"', text))
    assert inside <= set(re.findall(r'id="([^"]+)"', text))
    return found


class Balance(HTMLParser):
    """Collects tags that are never closed."""

    VOID = ("meta", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_self_contained_and_complete(tmp_path: Path) -> None:
    text = write_report(tmp_path / "deep" / "report.html", page()).read_text()
    links = outward(text)
    assert len(links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "http" not in text
    for words in ("without &lt;trigger&gt;", "abc1234", "make demo", "ran out of memory", "<svg"):
        assert words in text
    assert 'class="failed"' in text
    assert "reconstruction" in text
    assert text == render_report(page())


def test_report_is_well_formed() -> None:
    parser = Balance()
    parser.feed(render_report(page()))
    assert parser.open == []


def test_report_without_records_pictures_or_numbers() -> None:
    assert "<h1>" in render_report(Page(tables=[]))
    failed = make("demo", [record(status="failed", reason="x & y")])
    text = render_report(Page(tables=[failed]))
    assert "x &amp; y" in text
    assert "<svg" not in text


def test_controls_table() -> None:
    assert controls(rows(demo())) == [
        ["badmerging_on", "task_arithmetic", "95.0", "100.0", "20.0", "18.0", "30.0"]
    ]


def boxes(svg: str) -> list[tuple[float, float, float, float]]:
    """(left, top, right, bottom) of the labels of a scatter, as wide as it takes them to be."""
    found = re.findall(
        r'<text class="(?:rival|subject|reference|clean)( side)?" x="([^"]*)" y="([^"]*)">([^<]*)',
        svg,
    )
    made = []
    for side, x, y, words in found:
        left = float(x) - LETTER * len(words) if side else float(x)
        made.append((left, float(y) - 12, left + LETTER * len(words), float(y) + 4))
    return made


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 100), st.integers(40, 80)), min_size=1, max_size=9))
def test_scatter_labels_stay_apart_and_inside(places):
    same = [
        record(f"m{at}", evaluation(asr=asr, ca=(ca, ca)), seed=at)
        for at, (asr, ca) in enumerate(places)
    ]
    found = boxes(scatter(rows(same), "m0", ()))
    assert len(found) == len(places)
    for left, top, right, bottom in found:
        assert left >= 46
        assert right <= 560
        assert top >= 8
        assert bottom <= 300
    for one, other in combinations(found, 2):
        across = min(one[2], other[2]) - max(one[0], other[0])
        down = min(one[3], other[3]) - max(one[1], other[1])
        assert min(across, down) < 0.2  # coordinates are rounded to tenths


def test_the_scatter_shows_the_clean_merge_the_front_and_where_points_lead():
    svg = scatter(rows(demo()), "lfpm", ("none",), lambda row: f"{row.names['defense']}.html")
    assert svg.count('class="clean"') == 2  # a point and its label
    assert "clean merge: ASR 20.0 %, CA 72.0 %" in svg
    assert '<a href="lfpm.html" aria-label="lfpm: ASR 8.0 %, CA 66.0 %">' in svg
    # ft has CA 85 at ASR 80, lfpm CA 66 at ASR 8: neither beats the other.
    (steps,) = re.findall(r'class="front" d="M[^V]*(V[^"]*)"', svg)
    dots = {
        words.split(":")[0]: (float(x), float(y))
        for x, y, words in re.findall(r'cx="([^"]*)" cy="([^"]*)"[^>]*><title>([^<]*)', svg)
    }
    corners = [tuple(map(float, one.split("H"))) for one in steps[1:].split("V")]
    assert corners[0] == (dots["lfpm"][1], dots["ft"][0])
    assert corners[1] == (dots["ft"][1], 546.0)
