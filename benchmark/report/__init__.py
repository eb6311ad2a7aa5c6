"""The report: tables, charts and pictures as one HTML page, or as a folder with a page per cell."""

from benchmark.report.folder import write_folder
from benchmark.report.page import (
    GENERAL,
    Page,
    attackers,
    controls,
    render_report,
    write_report,
)
from benchmark.report.pictures import Picture, triggers

__all__ = [
    "GENERAL",
    "Page",
    "Picture",
    "attackers",
    "controls",
    "render_report",
    "triggers",
    "write_folder",
    "write_report",
]
