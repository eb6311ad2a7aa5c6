"""The report as a folder that opens from disk: a first page, a page per cell, pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.png import png
from benchmark.report.cellpage import content
from benchmark.report.entries import Entry, entries
from benchmark.report.logs import tails
from benchmark.report.page import TEMPLATES, Page, diagnoses, render_page, template, width
from benchmark.report.parts import parts
from benchmark.report.pictures import Picture, prompts, triggers
from benchmark.store import Store, write_atomic

INDEX = "index.html"
SHARED = ("report.css", "report.js")


def write_folder(folder: Path, page: Page, store: Store) -> Path:
    """Write the page and one of each cell; returns the path of the first.

    Files of an earlier report are written over; pages of cells that are gone are removed.

    Args:
        folder: made if it is not there.
        page: its pictures are taken from the store.
        store: where triggers, prompts and logs are, as far as they are.
    """
    cells = entries(page.records)
    page = replace(page, pictures=[*page.pictures, *triggers(page.records, store)])
    for name in SHARED:
        write_atomic(folder / name, (TEMPLATES / name).read_bytes())
    mined = {entry.file: _prompts(entry, store) for entry in cells}
    for picture in [*page.pictures, *(one for each in mined.values() for one in each)]:
        write_atomic(folder / _file(picture), png(picture.pixels))
    made, looked = parts(page.tables, cells, linked=True), diagnoses(page, cells)
    text = render_page(page, made, looked, source=_file, cells=cells)
    for entry in cells:
        pictures = [*_triggers_of(entry, page), *mined[entry.file]]
        own = [one for one in looked if one["href"] == entry.file]
        body = _cell(entry, page, store, pictures, own)
        write_atomic(folder / entry.file, body.encode())
    _remove_others(folder, [entry.file for entry in cells])
    write_atomic(folder / INDEX, text.encode())
    return folder / INDEX


def _file(picture: Picture) -> str:
    return f"pictures/{picture.name}.png"


def _prompts(entry: Entry, store: Store) -> list[Picture]:
    """What the first seed that has any has mined."""
    every: Iterator[list[Picture]] = (list(prompts(one, store)) for one in entry.computed)
    return next((found for found in every if found), [])


def _triggers_of(entry: Entry, page: Page) -> list[Picture]:
    """The pictures of the attack that the cell's records share with the first page."""
    attacks = {record.parents.get("attack") for record in entry.records} - {None}
    return [one for one in page.pictures if one.attack in attacks]


def _cell(
    entry: Entry,
    page: Page,
    store: Store,
    pictures: Sequence[Picture],
    looked: Sequence[Mapping[str, Any]],
) -> str:
    return template("cell.html.j2").render(
        **content(entry),
        page=page,
        inside=False,
        pictures=[(one, f"../{_file(one)}", width(one)) for one in pictures],
        diagnoses=[{**one, "href": None} for one in looked],
        logs=[(one.seed, tails(one, store)) for one in entry.records],
    )


def _remove_others(folder: Path, kept: Sequence[str]) -> None:
    """Pages of cells that an earlier report in this folder had."""
    known = {folder / one for one in kept}
    for path in (folder / "cells").glob("*.html"):
        if path not in known:
            path.unlink()
