"""One self-contained HTML page: tables, how to read them, pictures, controls, provenance."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.components import locate, option, options
from benchmark.diagnostics.section import sections
from benchmark.scatter import scatter
from benchmark.store import write_atomic
from benchmark.tables.layout import Layout
from benchmark.tables.metrics import UNDEFENDED
from benchmark.tables.reading import reading
from benchmark.tables.render import html
from benchmark.tables.rows import Row, named
from benchmark.tables.table import Table, number

if TYPE_CHECKING:
    from numpy import ndarray

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
    "The setting shown is the one that LFPM was tuned on (other seeds), and the baselines were not "
    "tuned: a fair ranking needs held-out settings and equal effort. No test image was used.",
)


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that stands on the page.

    Attributes:
        tables: from `benchmark.tables.make`, in order; the first is read aloud.
        pictures: (caption, (H,W,3) uint8) of images without and with the trigger.
        provenance: commit, versions, seconds, ...; shown as given.
        command: what makes this page again.
        diagnoses: paths of `diagnosis.json`; what they found is shown after the charts.
        notes: what a reader must be told, beside the footnotes of the tables.
        title: the page's heading.
    """

    tables: Sequence[Table]
    pictures: Sequence[tuple[str, ndarray]] = ()
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
    """The page's HTML, the same to the byte for the same arguments."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Path(__file__).parent / "templates"
    jinja = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    first = page.tables[0] if page.tables else None
    return jinja.get_template("report.html.j2").render(
        page=page,
        introduction=INTRODUCTION,
        reading=reading(first.rows, first.layout.subject) if first else [],
        tables=[Markup(html(table)) for table in page.tables],
        charts=[(title, Markup(svg)) for table in page.tables for title, svg in charts(table)],
        pictures=[(words, _data_uri(one), _width(one)) for words, one in page.pictures],
        diagnoses=sections(page.diagnoses),
        attackers=attackers(row for table in page.tables for row in table.rows),
        heads=list(CONTROLS.values()),
        controls=controls(row for table in page.tables for row in table.rows),
        provenance=list(_flat(page.provenance)),
    )


def charts(table: Table) -> list[tuple[str, str]]:
    """One scatter per group of comparable rows: its title and its SVG."""
    style: Layout = table.layout
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in table.rows:
        names = named(row.names)
        groups.setdefault(tuple(names[name] for name in style.within), []).append(row)
    kinds = {named(row.names)["peft"] for row in table.rows}
    unsaid = {"suite"} if len(kinds) > 1 else {"suite", "peft"}
    drawn = [
        (
            ", ".join(n for key, n in zip(style.within, names, strict=True) if key not in unsaid),
            scatter(rows, style.subject, style.references),
        )
        for names, rows in groups.items()
    ]
    return [(title, svg) for title, svg in drawn if svg]


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
    names = dict.fromkeys(row.names["attack"] for row in rows)
    lines = []
    for name in (name for name in names if name != "none" and name in options("attack")):
        card = locate(option("attack", name)["_target_"]).threat_model
        lines.append([name, card.knows, card.controls, card.needs])
    return lines


def _data_uri(image: ndarray) -> str:
    """A PNG of the image's own size; the page enlarges it without smoothing."""
    from PIL import Image

    out = BytesIO()
    Image.fromarray(image).save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def _width(image: ndarray) -> int:
    """Whole pixels of the page per pixel of the image, so that it stays sharp; a strip is wide."""
    pixels = image.shape[1]
    return pixels * max(1, (160 if pixels <= 80 else 640) // pixels)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, f"{value:.1f}" if isinstance(value, float) else str(value)
