"""The report's first page: tables, how to read them, charts, pictures, controls, provenance."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.components import locate, option, options
from benchmark.diagnostics.findings import read
from benchmark.diagnostics.section import section
from benchmark.png import png
from benchmark.records import Record
from benchmark.report.entries import Entry, entries
from benchmark.report.parts import Part, cell_list, parts
from benchmark.report.pictures import Picture
from benchmark.store import write_atomic
from benchmark.tables.metrics import UNDEFENDED
from benchmark.tables.reading import reading
from benchmark.tables.rows import Row
from benchmark.tables.table import Table, number

if TYPE_CHECKING:
    from jinja2 import Template

INTRODUCTION = (
    "Someone fine-tunes a CLIP image encoder on their own task, hides a backdoor in it and uploads "
    "it; someone else merges it with honest models. This page shows how much of the backdoor is "
    "left in the merged model (ASR, lower is better), which defences remove it, and what they cost "
    "in accuracy on clean images (CA, higher is better)."
)
CONTROLS = {
    "asr": "attacked merge",
    "asr_single": "attacker's own model",
    "asr_clean_merge": "clean merge (floor)",
    "asr_without_attacker": "merge without the attacker",
    "asr_pretrained": "pre-trained model",
}
GENERAL = (
    "LFPM's method section was not available to us: ours is a reconstruction from the abstract and "
    "one reading note, and its numbers are not the paper's.",
    "The embedded suite is small and drawn by programs. It shows a mechanism; it is not CLIP on "
    "photographs, and no number here stands for one.",
    "Few seeds give wide intervals. A difference smaller than the intervals may be none.",
)
"""What every page must say."""
NOTES = (
    *GENERAL,
    "The setting shown is the one that LFPM was chosen on (at other seeds); so were the learning "
    "rates of its baselines, and nothing else of theirs: a fair ranking needs held-out settings "
    "and equal effort. No test image was used in choosing anything.",
)


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that stands on the page.

    Attributes:
        tables: from `benchmark.tables.make`, in order; the first is read aloud.
        records: what the tables were made of; curves, accuracy per task and cells come from them.
        pictures: what triggers do.
        provenance: commit, versions, seconds, ...; shown as given.
        command: what makes this page again.
        diagnoses: paths of `diagnosis.json`; what they found is shown after the charts.
        notes: what a reader must be told, beside the footnotes of the tables.
        title: the page's heading.
    """

    tables: Sequence[Table]
    records: Sequence[Record] = ()
    pictures: Sequence[Picture] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    command: str = "make demo"
    diagnoses: Sequence[Path] = ()
    notes: Sequence[str] = NOTES
    title: str = "Backdoors in merged image encoders"


def write_report(path: Path, page: Page) -> Path:
    """Write the page to `path`, atomically; it loads nothing from anywhere."""
    write_atomic(path, render_report(page).encode())
    return path


def render_report(page: Page) -> str:
    """The page's HTML, whole in itself; the same to the byte for the same arguments."""
    found = entries(page.records)
    made = parts(page.tables, found, linked=False)
    return render_page(page, made, diagnoses(page), source=data_uri)


def render_page(
    page: Page,
    made: Sequence[Part],
    looked: Sequence[Mapping[str, Any]],
    *,
    source: Callable[[Picture], str],
    cells: Sequence[Entry] = (),
) -> str:
    """The HTML of the first page.

    Args:
        page: what stands on it.
        made: its tables with what belongs to them.
        looked: its diagnoses; of one that has an `href` only the drawings are shown.
        source: where a picture is.
        cells: those that have a page of their own; without any, style and script are inside.
    """
    first = page.tables[0] if page.tables else None
    attacked = list(attackers(row for table in page.tables for row in table.rows))
    return template("report.html.j2").render(
        page=page,
        inside=not cells,
        introduction=INTRODUCTION,
        reading=reading(first.rows, first.layout.subject) if first else [],
        parts=made,
        pictures=[(one, source(one), width(one)) for one in page.pictures],
        diagnoses=looked,
        attackers=attacked,
        heads=list(CONTROLS.values()),
        controls=controls(row for table in page.tables for row in table.rows),
        cells=cell_list(cells),
        reasons=any(one.row.reason for one in cells),
        provenance=list(flat(page.provenance)),
    )


@cache
def template(name: str) -> Template:
    """A template; what is put into it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return jinja.get_template(name)


TEMPLATES = Path(__file__).parent.parent / "templates"


def diagnoses(page: Page, cells: Sequence[Entry] = ()) -> list[dict[str, Any]]:
    """What the template shows of each diagnosis; `href` is the page of its cell, if it has one."""
    pages = {record.key: entry.file for entry in cells for record in entry.records}
    found = [(read(path), path.parent) for path in page.diagnoses]
    return [section(one, folder) | {"href": pages.get(one.key)} for one, folder in found]


def controls(rows: Iterable[Row]) -> list[list[str]]:
    """Per undefended attacked cell: attack, merge and the ASR of every control, as text."""
    lines = []
    for row in rows:
        if row.names["defense"] == UNDEFENDED and row.names["attack"] != "none" and row.stats:
            numbers = [number(row.mean(metric), 1) for metric in CONTROLS]
            variant = f" ({row.variant})" if row.variant else ""
            line = [row.names["attack"] + variant, row.names["merge"], *numbers]
            if line not in lines:
                lines.append(line)
    return lines


def attackers(rows: Iterable[Row]) -> list[list[str]]:
    """Per attack of the rows: its name and what its attacker knows, controls and needs."""
    names = dict.fromkeys(name for row in rows for name in row.names["attack"].split(", "))
    lines = []
    for name in (name for name in names if name != "none" and name in options("attack")):
        card = locate(option("attack", name)["_target_"]).threat_model
        lines.append([name, card.knows, card.controls, card.needs])
    return lines


def data_uri(picture: Picture) -> str:
    """A PNG of the picture's own size; the page enlarges it without smoothing."""
    return f"data:image/png;base64,{base64.b64encode(png(picture.pixels)).decode()}"


def width(picture: Picture) -> int:
    """Whole pixels of the page per pixel of the picture, so that it stays sharp."""
    pixels = picture.pixels.shape[1]
    return pixels * max(1, (160 if pixels <= 80 else 400) // pixels)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested values as (name, text), the names joined by blanks."""
    for key, value in values.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from flat(value, name)
        else:
            yield name, f"{value:.1f}" if isinstance(value, float) else str(value)
