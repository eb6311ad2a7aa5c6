"""Every table of results/ again, and those that README.md shows, one with its picture.

`python -m benchmark.readme`

In README.md a table stands between two comments: `<!-- table: COMMAND -->` for the whole of it,
`<!-- rows: COMMAND -->` for its rows and what its columns are, with a link to the rest, and
`<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmark import tables
from benchmark.committed import made, regenerate
from benchmark.drawing import standalone
from benchmark.scatter import scatter
from benchmark.store import write_atomic
from benchmark.tables import Table

ROOT = Path(__file__).parent.parent
SHOWN = re.compile(
    r"(<!-- (table|rows): lfpm-bench tables (\w+) --records results -->\n)(.*?)(?=<!-- end -->)",
    re.S,
)
"""Start, what is shown, table, text between."""


def filled(text: str) -> str:
    """README's text with every table in it made again."""
    return SHOWN.sub(lambda found: found[1] + SHOW[found[2]](found[3]), text)


def whole(name: str) -> str:
    """The table with its caption, and the commits its numbers were made at."""
    table = made(name)
    records = [record for row in table.rows for record in row.records]
    commits = sorted({at[:10] for r in records if (at := r.provenance.get("commit"))})
    said = f"Made at commit {', '.join(commits)}; `make results` regenerates it."
    return f"{tables.render(table, 'md')}\n{said}\n"


def rows(name: str) -> str:
    """Title, rows, what the columns are, and where the rest of the caption is."""
    table = made(name)
    title, body, _ = tables.render(table, "md").split("\n\n", 2)
    rest = (
        "How the numbers were made and compared, and how to compute each row again: "
        f"[results/{name}](results/{name}/{name}.md)."
    )
    missing = tables.unfinished(table.plan, over_settings=table.layout.group_by == "setting")
    said = " ".join(filter(None, (table.layout.caption, missing, rest)))
    return f"{title}\n\n{body}\n\n{said}\n"


SHOW = {"table": whole, "rows": rows}


def picture(table: Table) -> str:
    """The scatter of the rows that share the table's first attack, as a stand-alone SVG."""
    first = table.rows[0].names["attack"]
    rows = [row for row in table.rows if row.names["attack"] == first]
    style = table.layout
    return standalone(scatter(rows, style.subject, style.references))


def main() -> None:
    """Rewrite results/, README.md and docs/demo.svg from the committed records."""
    regenerate()
    path = ROOT / "README.md"
    write_atomic(path, filled(path.read_text()).encode())
    write_atomic(ROOT / "docs/demo.svg", picture(made("demo")).encode())


if __name__ == "__main__":
    sys.exit(main())
