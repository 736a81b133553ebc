"""Markdown and LaTeX: whole tables, and hostile names that stay text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from analysis.findings import Finding
from analysis.page.tables import Table
from analysis.report import main
from analysis.written.document import Document
from analysis.written.latex import LONG, latex
from analysis.written.markdown import markdown

MakeStudy = Callable[..., Path]
EVIL = "<b>a|b</b> $x^2$ \\input{/etc/passwd} & 50 % #1 _u_ [l](u) \n `c` ~ \u0002 \u4e2d \u2713"
HEAD = ["size", "start", "N", "why"]
TABLE = Table(
    "Title & more", HEAD, [[EVIL, "[x]", "3.1\u00a0\u00d7\u00a010\u00b9\u2075", EVIL]], 2, "Note.", words_last=True
)
DOCUMENT = Document(EVIL, [Finding("Q?", "Yes", "b = 1", "d")], [TABLE], [EVIL])


def test_markdown_tables_have_one_cell_for_each_column() -> None:
    """No name opens a cell, a tag, a link, a formula or a line of its own; numbers stand at the right."""
    lines = markdown(DOCUMENT).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert [len(re.findall(r"(?<!\\)\|", row)) for row in rows] == [len(HEAD) + 1] * 3
    assert rows[1] == "| --- | --- | ---: | --- |"
    for line in [*lines[:1], rows[2], lines[-1]]:
        assert not re.search(r"(?<!\\)[<>`$\[\]]", line)
    assert "**Yes.** b = 1" in lines


def test_latex_rows_have_one_cell_for_each_column() -> None:
    """No name is a command; braces balance, every float ends, and all that is left is what default fonts have."""
    text = latex(DOCUMENT)
    (row,) = [line for line in text.splitlines() if "passwd" in line]
    assert len(re.findall(r"(?<!\\)&", row)) == len(HEAD) - 1
    assert r"\input" not in text and r"\textbackslash{}input\{" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    bare = re.sub(r"\\[\\{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.isascii() and "$^{15}$" in row and r"\texttt{U+4E2D}" in row
    assert "a x$^{-b}$ and C$^{0.5}$." in latex(
        Document("t", [], [Table("T", ["a"], [["1"]], note="a x^\u2212b and C^0.5.")], [])
    )
    assert r"\toprule" in text and r"\begin{tabular}{llrl}" in text


def test_a_long_table_breaks_over_pages() -> None:
    """More rows than a page holds become a longtable."""
    long = Table("Long", ["a", "b"], [["x", "1"]] * (LONG + 1))
    assert r"\begin{longtable}{lr}" in latex(Document("t", [], [long], []))


def test_the_command_writes_both(make_study: MakeStudy, tmp_path: Path) -> None:
    """Answers, scores and what failed stand in the files asked for, the same bytes each time."""
    path = make_study(sizes={"micro": 98_304, "mini": 393_216, "tiny": 1_572_864})
    (path / "runs" / "tiny-pretrain-s0" / "segment" / "result.json").write_text("{")
    written = []
    for name in ("first", "second"):
        files = [tmp_path / f"{name}.{end}" for end in ("md", "tex")]
        assert main([str(path), f"markdown={files[0]}", f"latex={files[1]}"]) == 0
        written.append([file.read_text() for file in files])
    assert written[0] == written[1]
    for text in written[0]:
        assert "unreadable" in text and "top-1" in text
    assert "exponent b = " in written[0][0]
