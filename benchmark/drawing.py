"""A drawing as a file of its own: the SVGs of the report carry no colours, their page does."""

from __future__ import annotations

import re

STYLE = (
    "text{font:12px sans-serif;fill:#1d2327}.grid{stroke:#dde1e4}.lead{stroke:#7a858d;fill:none}"
    ".tick,.axis,text.reference{fill:#5b666e}.tick,.axis{text-anchor:middle}"
    ".side,.tick.side{text-anchor:end}circle{stroke:#fff;stroke-width:1.5}"
    "circle.subject,text.subject{fill:#0b6e5f}circle.rival{fill:#9a5b00}"
    "circle.reference{fill:#fff;stroke:#7a858d;stroke-width:2}"
    "circle.clean{fill:#fff;stroke:#5a4fa3;stroke-width:2}text.clean{fill:#5a4fa3}"
    ".front{fill:none;stroke:#0b6e5f;stroke-dasharray:4 4;opacity:.55}"
)
LINES = (
    ".line{fill:none;stroke-width:2}.dashed{stroke-dasharray:5 4}.line.subject{stroke:#0b6e5f}"
    ".line.rival{stroke:#9a5b00}.line.other{stroke:#5a4fa3}.line.reference{stroke:#7a858d}"
    "text.rival{fill:#9a5b00}circle.other,text.other{fill:#5a4fa3}"
)
"""What line drawings need beside STYLE."""


def standalone(svg: str, style: str = STYLE) -> str:
    """The SVG of `benchmark.scatter` or `benchmark.lines` with its size, colours and a ground."""
    found = re.match(r'<svg viewBox="0 0 (\d+) (\d+)"', svg)
    if found is None:
        raise ValueError("a drawing starts with <svg viewBox=...>")
    width, height = found.groups()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
    ground = f'<style>{style}</style><rect width="{width}" height="{height}" fill="#fff"/>'
    opening, rest = svg.split(">", 1)
    return f"{head}{opening.removeprefix('<svg')}>{ground}{rest}\n"
