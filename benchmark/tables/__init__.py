"""Tables: a pure function of records. Neither torch nor Hydra; pandas for LaTeX only."""

from benchmark.tables.layout import Layout, layout
from benchmark.tables.progress import status, status_text
from benchmark.tables.reading import dominating, reading
from benchmark.tables.render import flat, render, write
from benchmark.tables.rows import Row, find, rows, setting_of
from benchmark.tables.table import Table, caption, make, notes

__all__ = [
    "Layout",
    "Row",
    "Table",
    "caption",
    "dominating",
    "find",
    "flat",
    "layout",
    "make",
    "notes",
    "reading",
    "render",
    "rows",
    "setting_of",
    "status",
    "status_text",
    "write",
]
