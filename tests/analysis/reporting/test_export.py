"""Markdown and LaTeX: whole tables, and hostile names that stay text."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.findings.finding import Finding
from analysis.report import main
from analysis.reporting.export import LONG, Document, latex, markdown
from analysis.reporting.page import Table

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
    assert r"N$^{-2.2\times 10^{-5}}$" in latex(
        Document("t", [], [Table("T", ["a"], [["1"]], note="N^\u22122.2\u00a0\u00d7\u00a010\u207b\u2075.")], [])
    )
    assert r"N$^{10^{-5}}$" in latex(Document("t", [], [Table("T", ["a"], [["1"]], note="N^10\u207b\u2075.")], []))
    assert "a x$^{-b}$ and C$^{0.5}$." in latex(
        Document("t", [], [Table("T", ["a"], [["1"]], note="a x^\u2212b and C^0.5.")], [])
    )
    assert r"\shortstack[l]{pretrained \\ $-$ scratch}" in latex(
        Document("t", [], [Table("T", ["pretrained \u2212 scratch"], [["1"]])], [])
    )
    assert r"\toprule" in text and r"\begin{tabular}{llrl}" in text


def everything() -> Document:
    """Every character up to Latin Extended A, many others, and rows that begin like arguments of a line break."""
    letters = [chr(i) for i in [*range(0x20, 0x180), *range(0x2010, 0x2030), *range(0x300, 0x310)]]
    odd = [
        "*",
        "*a",
        " *",
        "[1ex]",
        "a--b---c",
        "?`!`",
        "``''",
        "^^M",
        "^2",
        "\\\\",
        "%",
        "{",
        "}",
        "",
        "\U0001f600\u202e",
    ]
    known = "\u2212 \u00d7 \u2013 \u00b7 \u221d \u2264 \u2265 \u2026 \u2713 \u2717 10\u207b\u00b9\u2075 x^\u2212b N^0.2"
    rows = [[first, EVIL, known] for first in [*letters, *odd]]
    tables = [TABLE, Table(EVIL, [*odd[:2], EVIL], rows[-len(odd) :], note=EVIL), Table("Long", ["a", "b", "c"], rows)]
    return Document(EVIL, [], tables, [])


def test_latex_escapes_every_letter() -> None:
    """In each line, whatever a name holds, braces and mathematics balance and only the writer's own commands stand."""
    own = r"textbackslash textasciitilde textasciicircum textless textgreater textbar textendash texttt char dots"
    own += " shortstack times cdot propto le ge surd begin end centering caption toprule midrule bottomrule"
    own += " endhead endfoot"
    allowed = {f"\\{word}" for word in own.split()} | {f"\\{mark}" for mark in "\\`{}$&%#_"}
    for line in latex(everything()).splitlines()[1:]:  # the first is a comment
        assert not line.startswith(("*", "["))
        depth, mathematics = 0, False
        for token in re.findall(r"\\[A-Za-z]+|\\.|.", line):
            depth += {"{": 1, "}": -1}.get(token, 0)
            mathematics ^= token == "$"
            assert depth >= 0 and token not in ("#", "%", "_", '"', "`"), line
            assert token != "^" or mathematics, line
            assert not token.startswith("\\") or token in allowed, line
        assert depth == 0 and not mathematics, line


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(tmp_path: Path) -> None:
    """pdflatex makes pages of it in its default encoding, with no error and no letter lost."""
    head = r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}"
    (tmp_path / "paper.tex").write_text(f"{head}\n{latex(everything())}\n\\end{{document}}\n")
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=100)
    log = (tmp_path / "paper.log").read_text(errors="replace")
    if "File `booktabs.sty' not found" in log:
        pytest.skip("pdflatex is here without booktabs")
    assert done.returncode == 0, log[log.find("\n!") :][:500]
    assert "Missing character" not in log
    assert (tmp_path / "paper.pdf").is_file()


def test_a_long_table_breaks_over_pages() -> None:
    """More rows than a page holds become a longtable."""
    long = Table("Long", ["a", "b"], [["x", "1"]] * (LONG + 1))
    assert r"\begin{longtable}{lr}" in latex(Document("t", [], [long], []))


@pytest.mark.slow(seconds=13)
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
