"""The report in a headless Chromium: it sorts, filters, leads on, and looks right; no complaint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from benchmark.report import Page, render_report, write_folder
from benchmark.store import Store
from benchmark.tables import make
from tests.browser import Browser, browsing, found
from tests.made_records import demo, line

pytestmark = pytest.mark.skipif(
    found() is None, reason="there is no Chromium or Chrome on the path"
)

LAPTOP, PHONE = (1440, 900), (390, 844)
TABLE = "document.querySelector('#table-demo table')"
HEAD = f"[...{TABLE}.tHead.rows[0].cells]"
ROWS = f"[...{TABLE}.tBodies[0].rows].filter(row => row.offsetParent !== null)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report")
    records = [replace(one, curve=line((0, 80, 95), (1, 78, 8))) for one in demo()]
    write_folder(out, Page([make("demo", records)], records), Store(out / "store"))
    (out / "single.html").write_text(render_report(Page([make("demo", records)], records)))
    return out


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium) -> Iterator[Browser]:
    chromium.complaints.clear()
    yield chromium
    assert chromium.complaints == []


def column(browser: Browser, title: str) -> list[str]:
    """The words of a column in the rows that are seen, from top to bottom."""
    at = f"{HEAD}.findIndex(head => head.textContent.startsWith('{title}'))"
    return browser.ask_page(f"{ROWS}.map(row => row.cells[{at}].innerText.trim())")


def button(title: str) -> str:
    return f"{HEAD}.find(head => head.textContent.startsWith('{title}')).querySelector('button')"


def numbers(words: list[str]) -> list[float]:
    return [float(one.split()[0].replace("−", "-")) for one in words if one != "–"]


@pytest.mark.parametrize("page", ["index.html", "single.html"])
def test_a_click_sorts_and_the_third_brings_the_order_back(browser, folder, page):
    browser.look(*LAPTOP)
    browser.open(folder / page)
    before = column(browser, "Defence")
    state = f"{button('ASR')}.parentElement.getAttribute('aria-sort')"
    browser.click(button("ASR"))
    rising = column(browser, "ASR")
    assert numbers(rising) == sorted(numbers(rising))
    assert rising[-1] == "–"
    assert browser.ask_page(state) == "ascending"
    browser.click(button("ASR"))
    falling = column(browser, "ASR")
    assert numbers(falling) == sorted(numbers(rising), reverse=True)
    assert falling[-1] == "–"  # what is unknown is last either way
    browser.click(button("ASR"))
    assert column(browser, "Defence") == before
    assert browser.ask_page(state) is None


def test_the_keyboard_is_enough(browser, folder):
    browser.look(*LAPTOP)
    browser.open(folder / "index.html")
    browser.ask_page(f"{button('Defence')}.focus()")
    browser.press("Enter")
    words = column(browser, "Defence")
    assert words == sorted(words)
    browser.press("Tab")
    assert browser.ask_page("document.activeElement.textContent").startswith("CA")
    # The first stop of a page leads past its links.
    browser.open(folder / "index.html")
    browser.press("Tab")
    assert browser.ask_page("document.activeElement.hash") == "#content"
    reachable = "[...document.querySelectorAll('.scroll')].every(one => one.tabIndex === 0)"
    assert browser.ask_page(reachable)


def test_filters_leave_the_rows_asked_for(browser, folder):
    browser.look(*LAPTOP)
    browser.open(folder / "index.html")
    every = column(browser, "Defence")
    search = "document.querySelector('#table-demo input')"
    browser.click(search)
    browser.call("Input.insertText", text="WITH images")
    assert column(browser, "Defence") == ["ft"]
    told = "document.querySelector('#table-demo output').textContent"
    assert browser.ask_page(told) == f"1 of {len(every)} rows"
    browser.ask_page(f"{search}.value = ''; {search}.dispatchEvent(new Event('input'))")
    assert column(browser, "Defence") == every


def test_a_row_leads_to_its_cell_and_back(browser, folder):
    browser.look(*LAPTOP)
    browser.open(folder / "index.html")
    browser.follow(f"{ROWS}.find(row => row.innerText.startsWith('lfpm')).querySelector('a')")
    assert browser.ask_page("document.querySelector('h1').textContent").startswith("lfpm after")
    browser.click("document.querySelector('pre.command + button')")
    assert browser.ask_page("String(getSelection())").startswith("lfpm-bench run")
    browser.follow("document.querySelector('.where a')")
    assert browser.ask_page("location.hash") == "#cells"


def shot(browser: Browser) -> Image.Image:
    return Image.open(BytesIO(browser.picture())).convert("L")


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_pages_fit_the_window_in_light_and_dark(browser, folder, size):
    (cell,) = folder.glob("cells/*lfpm*")
    for path in (folder / "index.html", cell):
        grounds = []
        for dark in (False, True):
            browser.look(*size, dark=dark)
            browser.open(path)
            assert browser.ask_page("document.documentElement.scrollWidth") <= size[0]
            grounds.append(shot(browser).getpixel((2, size[1] - 2)))
        assert grounds[0] > 200
        assert grounds[1] < 60


def test_a_phone_shows_the_main_columns_first(browser, folder):
    browser.look(*PHONE)
    browser.open(folder / "index.html")
    cells = f"[...{ROWS}[0].cells].filter(cell => cell.offsetParent !== null)"
    shown = f"{cells}.map(cell => cell.dataset.label)"
    assert browser.ask_page(shown) == ["Defence", "CA", "ASR"]
    more = "document.querySelector('#table-demo .more')"
    browser.click(more)
    assert browser.ask_page(f"{more}.getAttribute('aria-expanded')") == "true"
    assert {"floor", "DiD", "Sees"} <= set(browser.ask_page(shown))


def test_without_scripts_all_is_there(browser, folder):
    browser.look(*PHONE, scripts=False)
    browser.open(folder / "index.html")
    tree = browser.call("DOMSnapshot.captureSnapshot", computedStyles=[])
    shown = {tree["strings"][at] for at in tree["documents"][0]["layout"]["text"] if at >= 0}
    for words in ("weights only", "20.0", "lfpm"):
        assert any(words in text for text in shown)
    assert not any("filter rows" in text for text in shown)
    browser.look(*LAPTOP)
