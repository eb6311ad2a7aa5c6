"""Puts the table of results/ and its picture into README.md: `python -m benchmark.readme`."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmark import tables
from benchmark.records import Record
from benchmark.scatter import HEIGHT, WIDTH, scatter
from benchmark.store import write_atomic
from benchmark.tables import Table

ROOT = Path(__file__).parent.parent
START = "<!-- table: lfpm-bench tables demo --records results/demo -->"
END = "<!-- end -->"
STYLE = (
    "text{font:12px sans-serif;fill:#1d2327}.grid{stroke:#dde1e4}.lead{stroke:#7a858d;fill:none}"
    ".tick,.axis,text.reference{fill:#5b666e}.tick,.axis{text-anchor:middle}"
    ".side,.tick.side{text-anchor:end}circle{stroke:#fff;stroke-width:1.5}"
    "circle.subject,text.subject{fill:#0b6e5f}circle.rival{fill:#9a5b00}"
    "circle.reference{fill:#fff;stroke:#7a858d;stroke-width:2}"
)


def block(table: Table) -> str:
    """What stands between the markers: the table and the commits its numbers were made at."""
    commits = sorted({str(r.provenance.get("commit"))[:10] for r in _records() if r.main})
    made = f"Made at commit {', '.join(commits)}; `make results` regenerates it."
    return f"{START}\n{tables.render(table, 'md')}\n{made}\n"


def picture(table: Table) -> str:
    """The scatter of the rows that share the table's first attack, as a stand-alone SVG."""
    first = table.rows[0].names["attack"]
    rows = [row for row in table.rows if row.names["attack"] == first]
    style = table.layout
    drawn = scatter(rows, style.subject, style.references)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"'
    ground = f'<style>{STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>'
    opening, rest = drawn.split(">", 1)
    return f"{head}{opening.removeprefix('<svg')}>{ground}{rest}\n"


def _records() -> list[Record]:
    return tables.find(ROOT / "results/demo")


def main() -> None:
    """Rewrite README.md and docs/demo.svg from results/demo."""
    table = tables.make("demo", _records())
    path = ROOT / "README.md"
    text = path.read_text()
    before, rest = text.split(START, 1)
    after = rest.split(END, 1)[1]
    write_atomic(path, f"{before}{block(table)}{END}{after}".encode())
    write_atomic(ROOT / "docs/demo.svg", picture(table).encode())


if __name__ == "__main__":
    sys.exit(main())
