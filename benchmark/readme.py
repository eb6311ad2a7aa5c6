"""Every table of results/ again, and one of them with its picture in README.md.

`python -m benchmark.readme`
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmark import tables
from benchmark.committed import made, regenerate
from benchmark.drawing import standalone
from benchmark.scatter import scatter
from benchmark.store import write_atomic
from benchmark.tables import Table

ROOT = Path(__file__).parent.parent
START = "<!-- table: lfpm-bench tables demo --records results/demo -->"
END = "<!-- end -->"


def block(table: Table) -> str:
    """What stands between the markers: the table and the commits its numbers were made at."""
    records = [record for row in table.rows for record in row.records]
    commits = sorted({at[:10] for r in records if (at := r.provenance.get("commit"))})
    said = f"Made at commit {', '.join(commits)}; `make results` regenerates it."
    return f"{START}\n{tables.render(table, 'md')}\n{said}\n"


def picture(table: Table) -> str:
    """The scatter of the rows that share the table's first attack, as a stand-alone SVG."""
    first = table.rows[0].names["attack"]
    rows = [row for row in table.rows if row.names["attack"] == first]
    style = table.layout
    return standalone(scatter(rows, style.subject, style.references))


def main() -> None:
    """Rewrite results/, README.md and docs/demo.svg from the committed records."""
    regenerate()
    table = made("demo")
    path = ROOT / "README.md"
    text = path.read_text()
    before, rest = text.split(START, 1)
    after = rest.split(END, 1)[1]
    write_atomic(path, f"{before}{block(table)}{END}{after}".encode())
    write_atomic(ROOT / "docs/demo.svg", picture(table).encode())


if __name__ == "__main__":
    sys.exit(main())
