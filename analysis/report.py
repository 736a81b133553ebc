"""Command: study directories -> results.parquet, results.csv and report.html, one page that needs nothing else.

python analysis/report.py STUDY_DIR [STUDY_DIR ...] [watch=true] [markdown=FILE] [latex=FILE] [page=FILE]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__ in (
    None,
    "",
):  # started by path: sys.path[0] is analysis/, which hides this checkout behind an installed one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis import text
from analysis.beside import answers
from analysis.best_rate import one_rate
from analysis.findings import Finding, comparison, find
from analysis.records import FINISHED, UNREADABLE, Study, read_study, write_table
from analysis.registered import kept_promises
from analysis.series import CLASSIFICATION, SEGMENTATION
from analysis.two_axes import divided_compute
from nepa_scale.errors import UserError, nearest
from nepa_scale.files import write_atomically

USAGE = "python analysis/report.py STUDY_DIR [STUDY_DIR ...] [watch=true] [markdown=FILE] [latex=FILE] [page=FILE]"
SIDE_BY_SIDE = "side_by_side.html"
HELP = f"""usage: {USAGE}

Reads the runs of a study, fits the scaling laws, and writes results.parquet, results.csv and report.html into
STUDY_DIR. Unfinished, failed and unreadable runs are shown and left out of the fits. Of several studies each gets its
report, and one page more compares them. The last line printed is the path of the page.

watch=true     writes all anew whenever a file of the study changes, until every task has ended; Ctrl-C leaves
markdown=FILE  answers and tables as Markdown
latex=FILE     the tables as LaTeX (booktabs)
page=FILE      where the page that compares several studies goes; default: {SIDE_BY_SIDE} in the first STUDY_DIR"""
_ENDED = (FINISHED, "failed", UNREADABLE)
_FILES = ("markdown", "latex", "page")


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    folders: tuple[Path, ...]
    watch: bool = False
    markdown: Path | None = None
    latex: Path | None = None
    page: Path | None = None


@dataclass(frozen=True)
class Answered:
    """A study with its answers."""

    study: Study
    findings: Sequence[Finding]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after a mistake that the user can mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"--help", "-h"} & set(words):
        print(HELP)
        return 0
    try:
        request = _read(words)
        if request.watch:
            _watch(request)
        else:
            answered = [answer(folder) for folder in request.folders]
            for one in answered:
                _show(one.study, one.findings)
            for path in write(answered, request):
                print(path)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def answer(folder: Path) -> Answered:
    """Read a study and answer what can be asked of it."""
    study = read_study(folder)
    own = [*find(study), *divided_compute(study), *one_rate(study), *kept_promises(study)]
    return Answered(study, [*own, *answers(study)])


def write(answered: Sequence[Answered], request: Request) -> list[Path]:
    """Write tables and page of each study, then what was asked for of all; return the paths, the page's last."""
    paths = [path for one in answered for path in write_report(one.study, one.findings)]
    contents = [(request.markdown, "markdown"), (request.latex, "latex")]
    extra = {path: _written(answered, form) for path, form in contents if path is not None}
    if len(answered) > 1:
        from analysis.side_by_side.page import render
        from analysis.side_by_side.studies import named

        page = request.page or request.folders[0] / SIDE_BY_SIDE
        extra[page] = render(named([one.study for one in answered]))
    for path, content in extra.items():
        try:
            write_atomically(path, content)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
    return [*extra, *paths] if len(answered) == 1 else [*paths, *extra]


def write_report(study: Study, findings: Sequence[Finding]) -> tuple[Path, Path, Path]:
    """Write tables and page into the study directory; return the paths of parquet, CSV and page."""
    # matplotlib takes a second to import, which --help and mistakes need not wait for
    from analysis.page import render

    page = study.path / "report.html"
    try:
        parquet, csv = write_table(study)
        write_atomically(page, render(study, findings))
    except OSError as error:
        raise UserError(f"cannot write the report into {study.path}: {error.strerror} ({error.filename})") from error
    return parquet, csv, page


def _written(answered: Sequence[Answered], form: str) -> str:
    from analysis.side_by_side.studies import named
    from analysis.written import document, latex, markdown

    if len(answered) == 1:
        content = document.of_study(answered[0].study, answered[0].findings)
    else:
        content = document.of_studies(named([one.study for one in answered]))
    return markdown.markdown(content) if form == "markdown" else latex.latex(content)


def _watch(request: Request) -> None:
    from analysis.watch import watch

    def rebuild() -> bool:
        answered = [answer(folder) for folder in request.folders]
        page = write(answered, request)[-1]
        states = [state for one in answered for state in one.study.table["state"]]
        done = sum(state == FINISHED for state in states)
        print(f"{time.strftime('%H:%M:%S')}  {done} of {len(states)} tasks finished  {page}", flush=True)
        return any(state not in _ENDED for state in states)

    watch(request.folders, rebuild)


def _read(words: Sequence[str]) -> Request:
    folders: list[Path] = []
    files: dict[str, Path] = {}
    watch = False
    for word in words:
        key, assigned, value = word.partition("=")
        if key == "watch" and value in ("true", "false"):
            watch = value == "true"
        elif key in _FILES and value:
            files[key] = Path(value)
        elif word.startswith("-") or ((assigned or key in _FILES) and not Path(word).is_dir()):
            raise UserError(f"'{word}': not understood{nearest(key.lstrip('-'), ('watch', *_FILES))}; usage: {USAGE}")
        else:
            folders.append(Path(word))
    if not folders:
        raise UserError(f"name the study directory; usage: {USAGE}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError(f"a study directory is named twice: {', '.join(map(str, folders))}")
    if "page" in files and len(folders) == 1:
        raise UserError("page=FILE is the page that compares several studies; name two or more directories")
    for key, file in files.items():
        if file.is_dir() or not file.absolute().parent.is_dir():
            raise UserError(f"{key}={file}: it must be a file in a folder that exists")
    return Request(tuple(folders), watch, **files)


def _show(study: Study, findings: Sequence[Finding]) -> None:
    console = Console(highlight=False)
    for target in (CLASSIFICATION, SEGMENTATION):
        compared = comparison(study, target)
        if compared.rows.empty:
            continue
        rows = compared.rows.dropna(axis="columns", how="all")
        table = Table(compared.noun, *rows, title=f"{target.name} ({target.formula})")
        for label, row in rows.iterrows():
            table.add_row(Text(str(label)), *(text.percent(1 - float(score)) for score in row))
        console.print(table)
    for finding in findings:
        console.print(Text(f"{finding.question} {finding.verdict}. {finding.answer}"))


if __name__ == "__main__":
    sys.exit(main())
