"""The LaTeX renderer: booktabs through pandas, which is imported only here."""

from __future__ import annotations

from benchmark.tables.table import Table, caption, cells, notes

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}


def latex(table: Table) -> str:
    """A table environment with booktabs rules; the best comparable numbers are bold."""
    import pandas as pd

    lines = cells(table)
    # Positions as column names: two headers may read alike, and Styler needs them unique.
    texts = [[_number(cell.text) for cell in line] for line in lines]
    frame = pd.DataFrame(texts, columns=range(len(table.columns)))
    bold = [["textbf:--rwrap;" if cell.best else "" for cell in line] for line in lines]
    marks = pd.DataFrame(bold, columns=frame.columns)
    style = frame.style.hide(axis="index").apply(lambda _: marks, axis=None)
    style.format_index(lambda at: escape(table.columns[at].title), axis="columns")
    words = f"{table.layout.title} {' '.join([*caption(table), *notes(table)])}"
    return style.to_latex(
        hrules=True,
        caption=escape(words),
        label=f"tab:{table.name}",
        position="t",
        position_float="centering",
        column_format="".join("r" if column.numeric else "l" for column in table.columns),
    )


def escape(text: str) -> str:
    """The text with LaTeX's special characters made harmless."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _number(text: str) -> str:
    escaped = escape(text)
    return f"$-${escaped[1:]}" if escaped[:1] == "-" and escaped[1:2].isdigit() else escaped
