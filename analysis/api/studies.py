"""Studies from Python: their table as a data frame, and their report."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.reporting import build
from analysis.reporting.request import Request
from analysis.study.records import read_study


def load_study(study_dir: Path | str, *, tried: bool = False) -> pd.DataFrame:
    """The table of a study, one row for each run and task, finished or not.

    Columns are ``run_id``, ``label``, ``size``, ``task``, ``state``, ``seed``, ``params_backbone`` (N of the laws),
    ``flops_train``, ``unique_images``, each of ``metrics.NAME``, ``errors.NAME`` = 1 - metric, ``config.KEY`` of what
    the grid varies, and more: those of ``results.csv`` (docs/report.md). What is not measured is missing.

    Args:
        study_dir: the folder of the study, which holds ``runs/``.
        tried: also the runs whose tuned settings were not chosen.

    Raises:
        UserError: where there is no study.
    """
    study = read_study(Path(study_dir))
    return (study.tried if tried else study.table).reset_index(drop=True)


def report(study_dir: Path | str, *more: Path | str) -> Path:
    """Write the report of a study, or of several and a page that compares them; returns the path of that page.

    It writes ``results.parquet``, ``results.csv`` and ``report.html`` into each folder, as ``nepa-report`` does.
    Raises ``UserError``.
    """
    request = Request(folders=tuple(map(Path, (study_dir, *more))))
    return build.write([build.answer(folder) for folder in request.folders], request)[-1]
