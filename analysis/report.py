"""Command: study directory -> results.parquet, results.csv and report.html, one page that needs nothing else.

python analysis/report.py STUDY_DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

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
from analysis.records import Study, read_study, write_table
from analysis.series import CLASSIFICATION, SEGMENTATION
from analysis.two_axes import divided_compute
from nepa_scale.errors import UserError
from nepa_scale.files import write_atomically

USAGE = "python analysis/report.py STUDY_DIR"


class _Parser(argparse.ArgumentParser):
    """argparse that reports a wrong command line as the one line every other mistake gets."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; usage: {USAGE}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 after a mistake that the user can mend."""
    try:
        study = read_study(_parser().parse_args(arguments).study_dir)
        findings = [*find(study), *divided_compute(study), *one_rate(study), *answers(study)]
        _show(study, findings)
        for path in write_report(study, findings):
            print(path)
    except UserError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def write_report(study: Study, findings: Sequence[Finding]) -> tuple[Path, Path, Path]:
    """Write tables and page into the study directory; return the paths of parquet, CSV and page."""
    from analysis.page import (
        render,
    )  # matplotlib takes a second to import, which --help and mistakes need not wait for

    page = study.path / "report.html"
    try:
        parquet, csv = write_table(study)
        write_atomically(page, render(study, findings))
    except OSError as error:
        raise UserError(f"cannot write the report into {study.path}: {error.strerror} ({error.filename})") from error
    return parquet, csv, page


def _parser() -> _Parser:
    parser = _Parser(
        prog="report.py",
        usage=USAGE,
        description="Read the runs of a study, fit the scaling laws, and write results.parquet, results.csv "
        "and report.html into STUDY_DIR. Unfinished and failed runs are shown and left out of the fits. The "
        "last line printed is the path of the report.",
    )
    parser.add_argument("study_dir", metavar="STUDY_DIR", type=Path, help="directory that holds runs/ and plan.json")
    return parser


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
