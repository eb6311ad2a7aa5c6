"""LaTeX: whatever a name, a reason or a caption holds, a real LaTeX takes it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.committed import made, names
from benchmark.tables import Table, make, render
from benchmark.tables.latex import escape
from tests.made_records import demo, hits, record


def has(package: str) -> bool:
    """Whether there is a LaTeX, and it has this package."""
    if shutil.which("pdflatex") is None or shutil.which("kpsewhich") is None:
        return False
    return bool(subprocess.run(["kpsewhich", package], capture_output=True, check=False).stdout)


needs_latex = pytest.mark.skipif(
    not (has("booktabs.sty") and has("graphicx.sty")),
    reason="no LaTeX with booktabs and graphicx (texlive-latex-recommended) is installed",
)
NASTY = [
    "".join(map(chr, range(32, 127))),
    "[0] comes first",
    "*",
    "-- --- -1 --out",
    "λ_a τ² ≥ 3 → “quoted” … façade 中 \x07 tab\there",
    "C:\\dir\\%name% ~user ^2 {x} $y$ #1 & co_ <b> | `code_x`",
    "two\n\nparagraphs",
    "",
]
DOCUMENT = r"""\documentclass{article}
\usepackage[utf8]{inputenc}
\usepackage{booktabs,graphicx}
\begin{document}
%s
\end{document}
"""


def nasty() -> Table:
    """Every hard text as a reason, a variant, a title and a note."""
    made = [
        record("ft", status="failed", reason=text, config={"merge": {"name": text}})
        for text in NASTY
    ]
    # Names that begin a line, where LaTeX looks for arguments.
    table = make("demo", [record(), record("[0]"), record("*"), *made])
    return replace(table, layout=replace(table.layout, title=NASTY[5], notes=tuple(NASTY)))


def compiles(tables: list[Table], tmp_path: Path) -> None:
    body = "\n\\clearpage\n".join(render(table, "tex") for table in tables)
    (tmp_path / "all.tex").write_text(DOCUMENT % body)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all.tex"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Missing character" not in log
    assert (tmp_path / "all.pdf").stat().st_size > 10_000


@needs_latex
def test_tables_compile(tmp_path: Path) -> None:
    compiles([nasty(), make("demo", demo(), hits=hits(demo())), made("badmerging_table")], tmp_path)


@needs_latex
@pytest.mark.slow
def test_every_committed_table_compiles(tmp_path: Path) -> None:
    compiles([made(name) for name in names()], tmp_path)


@given(st.text(max_size=40))
@settings(max_examples=40)
def test_nothing_special_is_left_and_nothing_is_lost(text: str) -> None:
    found = escape(text)
    for mark in ("$\\pm$", "\\$", "\\&", "\\%", "\\#", "\\_", "\\{", "\\}"):
        found = found.replace(mark, "")
    assert not set("&%#_~^") & set(found)
    assert found.isprintable()


def test_escapes() -> None:
    assert escape("a_b & 5 % of ±2 `x --y`") == (r"a\_b \& 5 \% of $\pm$2 \texttt{x -{}-y}")
    assert escape("a ` b") == r"a \textasciigrave{} b"
    assert escape("中λ") == r"\texttt{U+4E2D}$\lambda$"


def test_the_beginning_of_a_line_is_no_argument() -> None:
    text = render(nasty(), "tex")
    rows = text[text.index("midrule") : text.index("bottomrule")].splitlines()
    assert not [line for line in rows if line.startswith(("[", "*"))]
    assert [line for line in rows if line.startswith("{}[0]")]
    assert "$-$" in text
