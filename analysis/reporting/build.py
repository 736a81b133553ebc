"""Making reports: answers, tables and pages of the studies that the command names, once or after every change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from analysis.findings import text
from analysis.findings.comparison import comparison
from analysis.findings.few_labels import few_labels
from analysis.findings.finding import Finding, correct_verdicts, with_settling
from analysis.findings.headline import headline
from analysis.findings.learning_rates import one_rate, tuned_rates
from analysis.findings.other_sets import other_sets
from analysis.findings.preregistration import check_predictions
from analysis.findings.scaling import find, objectives, transfer
from analysis.findings.series import FINETUNED, foremost
from analysis.findings.two_axes import divided_compute
from analysis.reporting import SIDE_BY_SIDE, Request
from analysis.reporting.paper_effects import answers
from analysis.study.records import FINISHED, UNREADABLE, Study, read_study, table_files, write_table
from nepa_scale.utils.cli import has_reader
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import write_atomically
from nepa_scale.utils.progress import make_console

_ENDED = (FINISHED, "failed", UNREADABLE)
LOOK_SECONDS = 2.0
SHARE = 0.2
"""Of the time that may go into rebuilding: a study that logs every second must not wait for its report."""
_READ = ("plan.json", "runs/*/*/status.json", "runs/*/*/result.json", "runs/*/*/metrics.jsonl")
Seen = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Answered:
    """A study with its answers."""

    study: Study
    findings: Sequence[Finding]


def build(request: Request) -> None:
    """Make the requested reports, once or, when watching, after every change; print the answers."""
    if request.watch:
        watch(request.folders, lambda: _rebuild(request))
        return
    studies = [answer(folder) for folder in request.folders]
    for answered in studies:
        _show(answered.study, answered.findings)
    for path in write(studies, request):
        print(path)


def report(study_dir: Path | str, *more: Path | str) -> Path:
    """Write the report of a study, or of several and a page that compares them; returns the path of that page.

    It writes ``results.parquet``, ``results.csv`` and ``report.html`` into each folder, as ``nepa-report`` does.
    Raises ``UserError``.
    """
    request = Request(folders=tuple(map(Path, (study_dir, *more))))
    return write([answer(folder) for folder in request.folders], request)[-1]


def answer(folder: Path) -> Answered:
    """Read a study and find the answers of its report."""
    study = read_study(folder)
    return Answered(study, with_settling(study, correct_verdicts(all_findings(study))))


def all_findings(study: Study) -> list[Finding]:
    """All findings of the study, each tested as if it were the only one."""
    return [
        *find(study),
        *objectives(study),
        *few_labels(study),
        *other_sets(study),
        *transfer(study),
        *divided_compute(study),
        *one_rate(study),
        *tuned_rates(study),
        *check_predictions(study),
        *answers(study),
    ]


def write(answered: Sequence[Answered], request: Request) -> list[Path]:
    """Write tables and page of each study, then the requested files about all; return the paths, the page's last."""
    paths = [path for item in answered for path in write_report(item.study, item.findings)]
    contents = [(request.markdown, "markdown"), (request.latex, "latex")]
    extra: dict[Path, str | bytes] = {path: _written(answered, form) for path, form in contents if path is not None}
    if len(answered) > 1:
        extra |= _side_by_side(answered, request.page or request.folders[0] / SIDE_BY_SIDE)
    for path, content in extra.items():
        try:
            write_atomically(path, content)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
    return [*extra, *paths] if len(answered) == 1 else [*paths, *extra]


def write_report(study: Study, findings: Sequence[Finding]) -> list[Path]:
    """Write tables, page and its leading figure (where there is one) into the study directory; return the paths of
    figure, parquet, CSV and page."""
    # matplotlib takes a second to import, which --help and mistakes need not wait for
    from analysis.reporting.render import render

    page = study.path / "report.html"
    try:
        figure = _write_figure(study)
        tables = write_table(study)
        write_atomically(page, render(study, findings))
    except OSError as error:
        raise UserError(f"cannot write the report into {study.path}: {error.strerror} ({error.filename})") from error
    return [*figure, *tables, page]


def _write_figure(study: Study) -> list[Path]:
    """Write the leading figure and return its path; without any, one of before goes."""
    from analysis.reporting.figures.headline_plot import leading_plot, to_png

    path, target = study.path / "headline.png", foremost(study)
    plot = None if target is None else leading_plot(study, target)
    if plot is None:
        path.unlink(missing_ok=True)
        return []
    write_atomically(path, to_png(plot))
    return [path]


def _side_by_side(answered: Sequence[Answered], page: Path) -> dict[Path, str | bytes]:
    """The page that compares the studies, last, and beside it one table of all their runs."""
    from analysis.reporting.compare import joined, named, render

    studies = named([item.study for item in answered])
    parquet, csv = table_files(joined(studies))
    return {page.with_suffix(".parquet"): parquet, page.with_suffix(".csv"): csv, page: render(studies)}


def _written(answered: Sequence[Answered], form: str) -> str:
    from analysis.reporting import export
    from analysis.reporting.compare import named

    if len(answered) == 1:
        content = export.of_study(answered[0].study, answered[0].findings)
    else:
        content = export.of_studies(named([item.study for item in answered]))
    return export.markdown(content) if form == "markdown" else export.latex(content)


def _rebuild(request: Request) -> bool:
    """Write everything again and print one line; returns whether any task may still change."""
    answered = [answer(folder) for folder in request.folders]
    page = write(answered, request)[-1]
    states = [state for item in answered for state in item.study.tried["state"]]
    done = sum(state == FINISHED for state in states)
    print(f"{time.strftime('%H:%M:%S')}  {done} of {len(states)} tasks finished  {page}", flush=True)
    return any(state not in _ENDED for state in states)


def _show(study: Study, findings: Sequence[Finding]) -> None:
    console = make_console()
    said = headline(study, findings)
    if said is not None:
        console.print(said.sentence)
    for target in FINETUNED:
        compared = comparison(study, target)
        if compared.rows.empty:
            continue
        rows = compared.rows.dropna(axis="columns", how="all")
        table = Table(compared.noun, *rows, title=f"{target.name} ({target.formula})")
        for label, row in rows.iterrows():
            table.add_row(str(label), *(text.percent(1 - float(score)) for score in row))
        console.print(table)
    for finding in findings:
        console.print(f"{finding.question} {finding.verdict}. {finding.answer}")


def watch(folders: Sequence[Path], rebuild: Callable[[], bool], look_seconds: float = LOOK_SECONDS) -> None:
    """Call ``rebuild`` at first and after every change, until it returns False or the user presses Ctrl-C.

    It also ends when its output is no longer read.
    """
    try:
        while True:
            seen, started = fingerprint(folders), time.monotonic()
            if not rebuild():
                return
            took = time.monotonic() - started
            time.sleep(max(look_seconds, took * (1 / SHARE - 1)))
            while has_reader() and fingerprint(folders) == seen:
                time.sleep(look_seconds)
            if not has_reader():
                return
    except KeyboardInterrupt:
        return


def fingerprint(folders: Sequence[Path]) -> Seen:
    """Size and time of every file that a report reads."""
    seen: Seen = {}
    for folder in folders:
        for path in (file for pattern in _READ for file in folder.glob(pattern)):
            try:
                status = path.stat()
            except OSError:  # replaced at this very moment
                continue
            seen[str(path)] = (status.st_mtime_ns, status.st_size)
    return seen
