"""A report as Markdown with pipe tables, as GitHub and pandoc read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from analysis.reporting.export.document import Document
from analysis.reporting.html.tables import Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


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
        yield from _table(table)
        if table.note:
            yield f"\n{_plain(table.note)}"
    if document.notes:
        yield "\n## Notes on the files\n"
        yield from (f"- {_plain(note)}" for note in document.notes)


def _table(table: Table) -> Iterator[str]:
    yield _row(table.head)
    yield _row(["---:" if table.is_number(i) else "---" for i in range(len(table.head))], escaped=True)
    yield from (_row(row) for row in table.rows)


def _row(cells: Sequence[str], *, escaped: bool = False) -> str:
    return f"| {' | '.join(cell if escaped else _plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """``text`` on one line, with nothing in it that Markdown or HTML would read as more than text."""
    printable = "".join(letter if letter.isprintable() or letter == "\u00a0" else " " for letter in text)
    return _SPECIAL.sub(r"\\\1", " ".join(printable.split(" ")))
