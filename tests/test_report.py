"""The report: one file that loads nothing, says everything, and is the same each time."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmark.report import Page, controls, render_report, write_report
from benchmark.scatter import scatter
from benchmark.tables import make, rows
from tests.made_records import demo, record

PICTURE = np.zeros((8, 8, 3), dtype=np.uint8)


def page() -> Page:
    return Page(
        tables=[make("demo", demo())],
        pictures=[("without <trigger>", PICTURE), ("with it", PICTURE)],
        provenance={"commit": "abc1234", "versions": {"torch": "2.6"}, "seconds": 3.25},
        command="make demo",
    )


class Balance(HTMLParser):
    """Collects tags that are never closed."""

    VOID = ("meta", "img", "path", "circle")

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
    links = re.findall(r"""(?:src|href)=["']([^"']+)|url\(""", text)
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "http" not in text
    assert "<script" not in text
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


def test_scatter_labels_stay_apart_and_inside() -> None:
    same = [record(f"m{at}", seed=at) for at in range(12)]
    svg = scatter(rows(same), "m0", ())
    heights = sorted(
        float(y)
        for y in re.findall(r'<text class="(?:rival|subject) side" x="[^"]*" y="([^"]*)"', svg)
    )
    assert len(heights) == 12
    assert all(b - a > 12 for a, b in pairwise(heights))
    assert heights[0] > 0
    assert heights[-1] < 340
