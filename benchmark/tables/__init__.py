"""Tables: a pure function of records. Neither torch nor Hydra; pandas for LaTeX only."""

from benchmark.tables.captions import caption, notes
from benchmark.tables.folders import below, folders
from benchmark.tables.hits import Hits, adopt_hits, find_hits, gather
from benchmark.tables.layout import Layout, layout
from benchmark.tables.progress import status, status_text
from benchmark.tables.reading import dominating, reading
from benchmark.tables.render import flat, render, renderer, write
from benchmark.tables.rows import Row, find, rows, setting_of
from benchmark.tables.table import Table, make
from benchmark.tables.whole import Plan, compared, unfinished

__all__ = [
    "Hits",
    "Layout",
    "Plan",
    "Row",
    "Table",
    "adopt_hits",
    "below",
    "caption",
    "compared",
    "dominating",
    "find",
    "find_hits",
    "flat",
    "folders",
    "gather",
    "layout",
    "make",
    "notes",
    "reading",
    "render",
    "renderer",
    "rows",
    "setting_of",
    "status",
    "status_text",
    "unfinished",
    "write",
]
