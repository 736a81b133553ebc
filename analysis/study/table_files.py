"""The table of a study as files: ``results.parquet`` and ``results.csv``."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from analysis.study.records import Study
from nepa_scale.utils.files import write_atomically


def write_table(study: Study) -> tuple[Path, Path]:
    """Write ``results.parquet`` and ``results.csv`` into the study directory and return their paths."""
    parquet, csv = study.path / "results.parquet", study.path / "results.csv"
    as_parquet, as_csv = table_files(study.tried)
    write_atomically(parquet, as_parquet)
    write_atomically(csv, as_csv)
    return parquet, csv


def table_files(table: pd.DataFrame) -> tuple[bytes, str]:
    """``table`` as parquet and as CSV."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue(), table.to_csv(index=False)
