"""A report without figures, as Markdown with pipe tables and as LaTeX tables for a paper that loads booktabs."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.findings.comparison import comparison
from analysis.findings.finding import Finding
from analysis.findings.series import measured
from analysis.findings.text import EXPONENT, SPACE, TIMES
from analysis.reporting.compare import (
    Studies,
    environment_table,
    find,
    laws_table,
    scores_table,
    settings_table,
    studies_table,
    targets,
)
from analysis.reporting.page import TITLES, Table, class_iou_table, comparison_table, result_table, states_table
from analysis.study.records import Study

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
LONG = 45
"""Rows that fit a page; a longer table is a longtable, which breaks over pages."""
HEAD_WIDTH = 10
"""Letters of a line of a head."""
_COMMANDS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\texttt{\char34}",  # \textquotedbl is an error in OT1, LaTeX's default encoding
    "`": r"\`{}",
    "\u00a0": "~",
    "\u2212": "$-$",
    "\u00d7": r"$\times$",
    "\u2013": r"\textendash{}",
    "\u00b7": r"$\cdot$",
    "\u221d": r"$\propto$",
    "\u2264": r"$\le$",
    "\u2265": r"$\ge$",
    "\u2026": r"\dots{}",
    "\u2713": r"$\surd$",
    "\u2717": r"$\times$",
}
_NOT_IN_OT1 = frozenset("ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲų\u017f")
"""Letters of European languages that stop a run of pdflatex in its default encoding, as a trial of each showed."""
_DASHES = re.compile(r"-(?=-)")  # two hyphens of a name, which LaTeX would join
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻\u2212", "0123456789--", "^")
_RAISED = re.compile(rf"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+|\^\u2212?(?:{EXPONENT}|b\b)")  # 10¹⁵, N^0.2, x^-b
_POWER_OF_TEN = re.compile("10([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)$")


@dataclass(frozen=True)
class Document:
    """A titled list of findings, tables and notes."""

    title: str
    findings: Sequence[Finding]
    tables: Sequence[Table]
    notes: Sequence[str]


def of_study(study: Study, findings: Sequence[Finding]) -> Document:
    """The answers of one study, then its comparisons, results and the state of its runs."""
    tables = [comparison_table(comparison(study, target)) for target in measured(study)]
    tables += [result_table(study, task) for task in TITLES]
    tables += [table for table in [class_iou_table(study)] if table is not None]
    return Document(study.name, findings, [one for one in [*tables, states_table(study)] if one.rows], study.notes)


def of_studies(studies: Studies) -> Document:
    """The answers of several studies together, then their tables."""
    tables = [studies_table(studies), laws_table(studies), *(scores_table(studies, t) for t in targets(studies))]
    tables += [settings_table(studies), environment_table(studies)]
    notes = [f"{name}: {note}" for name, study in studies.items() for note in study.notes]
    return Document(" beside ".join(studies), find(studies), [entry for entry in tables if entry.rows], notes)


def markdown(document: Document) -> str:
    """Write ``document``; the same one gives the same text."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Document) -> Iterator[str]:
    yield f"# {_plain(document.title)}"
    for finding in document.findings:
        yield f"\n## {_plain(finding.question)}\n"
        yield f"**{_plain(finding.verdict)}.** {_plain(finding.answer)}"
        if finding.detail:
            yield f"\n{_plain(finding.detail)}"
    for table in document.tables:
        yield f"\n## {_plain(table.title)}\n"
        yield from _pipe_table(table)
        if table.note:
            yield f"\n{_plain(table.note)}"
    if document.notes:
        yield "\n## Notes on the files\n"
        yield from (f"- {_plain(note)}" for note in document.notes)


def _pipe_table(table: Table) -> Iterator[str]:
    yield _pipe_row(table.head)
    yield _pipe_row(["---:" if table.is_number(i) else "---" for i in range(len(table.head))], escaped=True)
    yield from (_pipe_row(row) for row in table.rows)


def _pipe_row(cells: Sequence[str], *, escaped: bool = False) -> str:
    return f"| {' | '.join(cell if escaped else _plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """``text`` on one line, with nothing in it that Markdown or HTML would read as more than text."""
    printable = "".join(letter if letter.isprintable() or letter == "\u00a0" else " " for letter in text)
    return _SPECIAL.sub(r"\\\1", " ".join(printable.split(" ")))


def latex(document: Document) -> str:
    """Write every table of ``document`` as a float of its own; the same one gives the same text."""
    parts = ["% Needs \\usepackage{booktabs,longtable}. A table wider than the page: \\small, or landscape of lscape."]
    parts += ["\n".join(_float(table)) for table in document.tables]
    return "\n\n".join(parts) + "\n"


def _float(table: Table) -> Iterator[str]:
    columns = "".join("r" if table.is_number(i) else "l" for i in range(len(table.head)))
    caption = rf"\caption{{{_escaped(table.title)}.{_note(table)}}}"
    head = [r"\toprule", _head(table), r"\midrule"]
    body = [*map(_row, table.rows)]
    if len(table.rows) > LONG:
        yield rf"\begin{{longtable}}{{{columns}}}"
        yield from [caption + r" \\", *head, r"\endhead", r"\bottomrule", r"\endfoot", *body, r"\end{longtable}"]
        return
    yield from [r"\begin{table}", r"\centering", caption, rf"\begin{{tabular}}{{{columns}}}"]
    yield from [*head, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]


def _note(table: Table) -> str:
    return f" {_escaped(table.note)}" if table.note else ""


def _head(table: Table) -> str:
    """The heads, broken over lines, since they are wider than most numbers below them."""
    cells = []
    for i, name in enumerate(table.head):
        lines = textwrap.wrap(name, HEAD_WIDTH, break_long_words=False, break_on_hyphens=False) or [""]
        side = "r" if table.is_number(i) else "l"
        stacked = r" \\ ".join(map(_cell, lines))
        cells.append(rf"\shortstack[{side}]{{{stacked}}}" if len(lines) > 1 else stacked)
    return " & ".join(cells) + r" \\"


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(_cell, cells)) + r" \\"


def _cell(text: str) -> str:
    """``text`` escaped, and not begun like an argument of the line break before it (a bracket or a star)."""
    escaped = _escaped(text)
    return f"{{}}{escaped}" if escaped.lstrip().startswith(("[", "*")) else escaped


def _escaped(text: str) -> str:
    """``text`` for LaTeX's default fonts; a character that these lack is written as its code point."""
    raised = _RAISED.split(text)
    powers = [f"$^{{{_exponent(power)}}}$" for power in _RAISED.findall(text)]
    plain = [_DASHES.sub("-{}", "".join(map(_letter, between))) for between in raised]
    return "".join(piece for pair in zip(plain, [*powers, ""], strict=True) for piece in pair)


def _exponent(raised: str) -> str:
    """An exponent for LaTeX; a power of ten in it has an exponent of its own."""
    tens = _POWER_OF_TEN.search(raised)
    if tens is None:
        return raised.translate(_SUPERSCRIPTS)
    factor = raised[: tens.start()].translate(_SUPERSCRIPTS).replace(f"{SPACE}{TIMES}{SPACE}", r"\times ")
    return f"{factor}10^{{{tens[1].translate(_SUPERSCRIPTS)}}}"


def _letter(letter: str) -> str:
    if letter in _COMMANDS:
        return _COMMANDS[letter]
    if letter.isspace():
        return " "
    known = letter.isascii() or ("\u00c0" <= letter <= "\u017f" and letter not in _NOT_IN_OT1)
    return letter if known and letter.isprintable() else rf"\texttt{{U+{ord(letter):04X}}}"
