"""The LaTeX renderer: booktabs through pandas, which is imported only here."""

from __future__ import annotations

import re

from benchmark.tables.captions import caption, notes
from benchmark.tables.table import Table, cells

GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "η": "eta", "θ": "theta",
    "λ": "lambda", "μ": "mu", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "phi",
    "Δ": "Delta", "Σ": "Sigma",
}  # fmt: skip
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
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': "''",
    "\n": " ",
    "±": r"$\pm$",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "…": r"\ldots{}",
    **{letter: rf"$\{name}$" for letter, name in GREEK.items()},
}
LAST_LATIN = "\u017f"
"""Letters up to here compile as they are (inputenc's utf8); others are shown by their number."""


def latex(table: Table) -> str:
    """A table environment with booktabs rules, as wide as the text, its notes in small print below.

    What is best and tested to be so is bold. Needs the packages booktabs and graphicx.
    """
    words = [" ".join(caption(table)), *notes(table)]
    return "\n".join(
        [
            r"% \usepackage{booktabs,graphicx}",
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape(table.layout.title)}}}",
            rf"\label{{tab:{table.name}}}",
            r"\resizebox{\linewidth}{!}{%",
            f"{_tabular(table)}}}",
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}\footnotesize",
            "\n\n".join(escape(one) for one in words),
            r"\end{minipage}",
            r"\end{table}",
            "",
        ]
    )


def _tabular(table: Table) -> str:
    import pandas as pd

    lines = cells(table)
    # Positions as column names: two headers may read alike, and Styler needs them unique.
    texts = [[_cell(cell.text) for cell in line] for line in lines]
    frame = pd.DataFrame(texts, columns=range(len(table.columns)))
    bold = [["textbf:--rwrap;" if cell.best else "" for cell in line] for line in lines]
    marks = pd.DataFrame(bold, columns=frame.columns)
    style = frame.style.hide(axis="index").apply(lambda _: marks, axis=None)
    style.format_index(lambda at: escape(table.columns[at].title), axis="columns")
    aligned = "".join("r" if column.numeric else "l" for column in table.columns)
    return style.to_latex(hrules=True, column_format=aligned)


def escape(text: str) -> str:
    """The text with LaTeX's special characters made harmless; `code` becomes typewriter."""
    parts = re.split(r"`([^`]*)`", text)
    return "".join(
        rf"\texttt{{{_harmless(part)}}}" if at % 2 else _harmless(part)
        for at, part in enumerate(parts)
    )


def _harmless(text: str) -> str:
    return "".join(map(_letter, re.sub(r"-(?=-)", "-\0", text)))  # -- would be one dash


def _letter(letter: str) -> str:
    if letter == "\0":
        return "{}"
    if letter in SPECIAL:
        return SPECIAL[letter]
    known = (letter.isascii() and letter.isprintable()) or "\u00a1" <= letter <= LAST_LATIN
    return letter if known else rf"\texttt{{U+{ord(letter):04X}}}"


def _cell(text: str) -> str:
    escaped = escape(text)
    if escaped[:1] == "-" and escaped[1:2].isdigit():
        return f"$-${escaped[1:]}"
    # After the end of a line LaTeX would take these as an argument of it.
    return f"{{}}{escaped}" if escaped[:1] in ("[", "*") else escaped
