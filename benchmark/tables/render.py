"""Renderers: one table as md, csv, json, tex or html fragment, the same to the byte each time."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from benchmark.errors import BenchError, nearest
from benchmark.store import write_atomic
from benchmark.tables.again import again
from benchmark.tables.captions import caption, notes
from benchmark.tables.latex import latex
from benchmark.tables.layout import Column
from benchmark.tables.metrics import BESIDE, METRICS, RATES, measures
from benchmark.tables.paired import Test
from benchmark.tables.pooled import AGAINST, settings
from benchmark.tables.reading import label, place_of, reading
from benchmark.tables.rows import UNSAID, Row
from benchmark.tables.table import Table, cells

DIGITS = 4
"""Decimals of per cents in json and csv."""


def render(table: Table, form: str) -> str:
    """The table as text.

    Args:
        table: from `make`.
        form: md, csv, json, tex or html.
    """
    return renderer(form)(table)


def renderer(form: str) -> Callable[[Table], str]:
    """What renders a form; one sentence where there is none, before any table is made."""
    known = {"md": markdown, "csv": comma_separated, "json": as_json, "tex": latex, "html": html}
    if form not in known:
        raise BenchError(f"unknown table format '{form}'{nearest(form, known)}")
    return known[form]


def write(table: Table, folder: Path, forms: Iterable[str]) -> list[Path]:
    """Write <folder>/<table>.<form> for every form; returns the paths."""
    texts = {form: render(table, form) for form in forms}
    for form, text in texts.items():
        write_atomic(folder / f"{table.name}.{form}", text.encode())
    return [folder / f"{table.name}.{form}" for form in texts]


def flat(row: Row) -> dict[str, Any]:
    """A row as plain JSON: names, status, then every number in per cent with its spread."""
    out: dict[str, Any] = {**row.names, "variant": row.variant, "status": row.status}
    out |= {"reason": row.reason, "n_seeds": len(row.seeds), "seeds": list(row.seeds)}
    for metric in METRICS:
        stat = row.stats.get(metric)
        out[metric] = _rounded(stat and stat.mean)
        out[f"{metric}_sd"] = _rounded(stat and stat.sd)
        out[f"{metric}_low"] = _rounded(stat and stat.low)
        out[f"{metric}_high"] = _rounded(stat and stat.high)
    out |= {name: _rounded(row.costs.get(name)) for name in BESIDE}
    if row.parts:
        out |= _flat_pool(row)
    out |= {"sees": row.sees, "needs": dict(row.needs)}
    return {**out, "replay": again(row)}


def _flat_pool(row: Row) -> dict[str, Any]:
    """What a row over settings has more: their number, extremes, and differences to the subject."""
    out: dict[str, Any] = {"n_settings": len(settings(row))}
    for metric in METRICS:
        stat = row.stats.get(metric)
        out[f"{metric}_least"] = _rounded(stat and min(stat.values))
        out[f"{metric}_most"] = _rounded(stat and max(stat.values))
    for name in AGAINST:
        stat = row.stats.get(name)
        out |= {name: _rounded(stat and stat.mean), f"{name}_low": _rounded(stat and stat.low)}
        out |= {f"{name}_high": _rounded(stat and stat.high)}
        out[f"{name}_settings"] = len(stat.values) if stat else 0
    return out


def as_json(table: Table) -> str:
    """Title, caption, notes, reading lines and all the rows' numbers."""
    body = {
        "table": table.name,
        "title": table.layout.title,
        "caption": caption(table),
        "notes": notes(table),
        "reading": reading(table.rows, table.layout.subject),
        "rows": [_nested(row) | _told(table, row) for row in table.rows],
    }
    text = json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False)
    seeds = _lines([one for row in table.rows for one in _by_seed(row)])
    tests = _lines([_test(table, test) for test in table.tests])
    return f'{text[:-2]},\n "by_seed": {seeds},\n "tests": {tests}\n}}\n'


def _lines(many: Iterable[Mapping[str, Any]]) -> str:
    """A JSON list with one line each: a table may have hundreds."""
    inside = ",\n".join(f"  {json.dumps(one, ensure_ascii=False)}" for one in many)
    return f"[\n{inside}\n ]" if inside else "[]"


def _by_seed(row: Row) -> list[dict[str, Any]]:
    """Each seed's rates as [value, low, high], the interval of its counts, where seeds differ."""
    return [
        {
            **one.names,
            **({"variant": one.variant} if one.variant else {}),
            "setting": one.setting,
            "seed": record.seed,
            **{
                name: [_rounded(number) for number in (rate.value, rate.low, rate.high)]
                for name, rate in measures(record).items()
                if name in RATES and rate is not None
            },
        }
        for one in (row.parts or (row,))
        if len(one.records) > 1
        for record in one.records
    ]


def _nested(row: Row) -> dict[str, Any]:
    """A row over settings holds those of its settings too."""
    if not row.parts:
        return flat(row)
    parts = [{"setting": part.setting, **flat(part)} for part in row.parts]
    return {**flat(row), "settings": parts}


def _told(table: Table, row: Row) -> dict[str, Any]:
    """What JSON says more of a row: its curve, and the numbers of publications."""
    points = [tuple(_rounded(number) for number in point) for point in row.curve]
    curve = [dict(zip(("s", "ca_drop", "asr"), point, strict=True)) for point in points]
    papers = [
        {"values": dict(one.values), "source": one.source, "status": one.status}
        for one in table.layout.published
        if one.belongs(row)
    ]
    return ({"curve": curve} if curve else {}) | ({"published": papers} if papers else {})


def _test(table: Table, test: Test) -> dict[str, Any]:
    rows = [table.rows[at] for at in test.rows]
    return {
        "metric": test.metric,
        "where": place_of(rows[0]),
        "rows": [label(row) for row in rows],
        "seeds": list(test.seeds),
        "differences": [_rounded(one) for one in test.differences],
        "p": float(f"{test.p:.4g}"),
        "adjusted": float(f"{test.adjusted:.4g}"),
    }


def comma_separated(table: Table) -> str:
    """The rows' numbers, one line each; no caption, so that any reader takes it."""
    out = StringIO()
    writer: Any = None
    names = dict.fromkeys(name for row in table.rows for name in row.names)
    for row in table.rows:
        values = {**{name: UNSAID.get(name, "") for name in names}, **flat(row)}
        values["seeds"] = " ".join(str(seed) for seed in row.seeds)
        values |= _published(table, row)
        del values["needs"]
        if writer is None:
            writer = csv.DictWriter(out, fieldnames=list(values), lineterminator="\n")
            writer.writeheader()
        writer.writerow(values)
    return out.getvalue()


def _published(table: Table, row: Row) -> dict[str, Any]:
    """The columns of publications: empty where a row has no such number."""
    out: dict[str, Any] = {}
    for metric in dict.fromkeys(m for one in table.layout.published for m in one.values):
        found = [o for o in table.layout.published if metric in o.values and o.belongs(row)]
        out[f"{metric}_published"] = found[0].values[metric] if found else None
        out[f"{metric}_source"] = f"{found[0].source} ({found[0].status})" if found else None
    return out


def markdown(table: Table) -> str:
    """A pipe table, readable as plain text, between its title and its footnotes."""
    head = [column.title for column in table.columns]
    body = [
        [f"**{_plain(cell.text)}**" if cell.best else _plain(cell.text) for cell in line]
        for line in cells(table)
    ]
    right = [column.numeric for column in table.columns]
    widths = [max(3, *(len(line[at]) for line in [head, *body])) for at in range(len(head))]
    rule = [
        "-" * (wide - 1) + ":" if r else "-" * wide for wide, r in zip(widths, right, strict=True)
    ]
    lines = [_padded(line, widths, right) for line in (head, rule, *body)]
    text = ["**" + table.layout.title + "**", "", *lines, "", " ".join(caption(table))]
    if found := notes(table):
        text += ["", *(f"- {note}" for note in found)]
    return "\n".join(text) + "\n"


def _plain(text: str) -> str:
    """Text of a cell that Markdown must not read as its own."""
    return re.sub(r"[\\|*`<]", r"\\\g<0>", " ".join(text.splitlines()))


def _padded(line: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    cells = [
        one.rjust(wide) if to_right else one.ljust(wide)
        for one, wide, to_right in zip(line, widths, right, strict=True)
    ]
    return f"| {' | '.join(cells)} |"


def html(table: Table, link: Callable[[Row], str | None] = lambda row: None) -> str:
    """A <figure> with the table, its caption and notes; classes name the status and the best.

    Args:
        table: from `make`.
        link: where the defence of a row (or its first cell) leads to, if anywhere.
    """
    head = "".join(f"<th{_class(column)}>{escape(column.title)}</th>" for column in table.columns)
    keys = [column.key for column in table.columns]
    linked = keys.index("defense") if "defense" in keys else 0
    lines = []
    for row, line in zip(table.rows, cells(table), strict=True):
        href = link(row)
        parts = [
            f'<td{_class(column)} data-label="{escape(column.header)}">'
            f"{_linked(_strong(cell.text, cell.best, column.numeric), href, at == linked)}</td>"
            for at, (column, cell) in enumerate(zip(table.columns, line, strict=True))
        ]
        subject = " subject" if row.names["defense"] == table.layout.subject else ""
        lines.append(f'<tr class="{row.status}{subject}">{"".join(parts)}</tr>')
    under = "".join(f"<li>{_code(note)}</li>" for note in notes(table))
    return (
        f'<figure class="table" id="table-{escape(table.name)}">\n'
        f"<h2>{escape(table.layout.title)}</h2>\n"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.layout.title)}">'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody>\n</table></div>\n"
        + f"<figcaption>{_code(' '.join(caption(table)))}</figcaption>\n"
        + (f'<ul class="notes">{under}</ul>\n' if under else "")
        + "</figure>\n"
    )


def _linked(shown: str, href: str | None, here: bool) -> str:
    return f'<a href="{escape(href)}">{shown}</a>' if href and here else shown


def _code(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _class(column: Column) -> str:
    long = f' class="long {column.key}"' if column.key in ("sees", "reason", "variant") else ""
    return ' class="number"' if column.numeric else long


def _strong(text: str, best: bool, numeric: bool) -> str:
    shown = escape(text).replace("-", "−") if numeric else escape(text)
    value, gap, spread = shown.partition(" ")
    if numeric and gap:
        shown = f"{value} <small>{spread}</small>"
    tag = "strong" if best else "span"
    return f"<{tag}>{shown}</{tag}>" if shown else ""


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS) + 0.0
