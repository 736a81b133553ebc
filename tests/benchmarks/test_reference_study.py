"""The reference study's page says what its records say, and the laws it states can be had by other means."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference_study
from scipy import stats

from analysis.findings.comparison import comparison, gain
from analysis.findings.series import CLASSIFICATION, PARAMETERS, PRETRAINED, SCRATCH, series
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import MeanRatio
from analysis.study.records import FINISHED, Study, read_study

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "reference-study"
MEGABYTES = 3


@pytest.fixture(scope="module")
def study() -> Iterator[Study]:
    """The study as its records have it."""
    with reference_study.records(FOLDER) as study_dir:
        yield read_study(study_dir)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """The kept table of results."""
    return pd.read_parquet(FOLDER / "results.parquet")


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """Top-1 at 50 labels a class by size, start and length, of each seed at its best rate by the tuning images; the
    means over seeds of the score and of the logarithm of the error."""
    rows = table[(table["task"] == "classify") & (table["unique_images"] == reference_study.LABELLED)]
    keys = ["size", "params_backbone", "init", reference_study.STEPS, "seed"]
    rows = rows.sort_values(["metrics.tuning_top1", "config.classify.base_lr"], ascending=[True, False])
    best = rows.groupby(keys, dropna=False)["metrics.top1"].last()  # of equal scores that of the lowest rate
    both = pd.DataFrame({"top1": best.astype("float64"), "log_error": np.log(1 - best.astype("float64"))})
    return both.groupby(keys[:-1], dropna=False).mean().reset_index()


@pytest.mark.slow(seconds=3)
def test_tables_of_the_page_are_those_of_the_records(study: Study) -> None:
    """Nobody has changed a figure of the page by hand, and no change of the analysis has changed an answer unseen."""
    page = (FOLDER / reference_study.PAGE).read_text(encoding="utf-8")
    assert reference_study.filled(page, study, FOLDER) == page
    assert page.count("<!-- end -->") >= 4


def test_table_and_records_are_of_one_study(study: Study, table: pd.DataFrame) -> None:
    """Whoever reads the parquet sees the runs that the page rests on: each of them finished."""
    key = ["run_id", "task"]
    ours, theirs = (rows.set_index(key)["metrics.top1"].dropna().sort_index() for rows in (study.tried, table))
    pd.testing.assert_series_equal(ours, theirs, check_dtype=False)
    assert (table["state"] == FINISHED).all()


def test_law_of_sizes_is_the_line_through_their_best_lengths(study: Study, table: pd.DataFrame) -> None:
    """By scipy from the parquet: exponent and the interval of Student's t, of either start."""
    best = scores(table).sort_values("top1").groupby(["init", "params_backbone"])["log_error"].last()
    for start in (PRETRAINED, SCRATCH):
        of_start = best[start]
        line = stats.linregress(np.log(of_start.index.to_numpy(float)), of_start.to_numpy(float))
        half = stats.t.ppf(0.975, len(of_start) - 2) * line.stderr
        fit = series(study, CLASSIFICATION, PARAMETERS, start).fit
        assert isinstance(fit, PowerLawFit) and fit.n == len(reference_study.SIZES)
        found = (fit.b, fit.b_interval.low, fit.b_interval.high)
        assert found == pytest.approx((-line.slope, -line.slope - half, -line.slope + half))


def test_gain_is_that_of_sizes(study: Study, table: pd.DataFrame) -> None:
    """The mean ratio of errors, each size once, averaged over its lengths, which share their controls."""
    found = scores(table)
    pretrained = found[found["init"] == PRETRAINED].groupby("size")["top1"].mean()
    scratch = found[found["init"] == SCRATCH].set_index("size")["top1"]
    ratios = np.log((1 - pretrained) / (1 - scratch))
    ratio = gain(comparison(study, CLASSIFICATION))
    assert isinstance(ratio, MeanRatio) and ratio.n == len(reference_study.SIZES)
    assert np.log(ratio.mean) == pytest.approx(ratios.mean())


def test_prediction_was_written_before_what_it_predicts(study: Study, table: pd.DataFrame) -> None:
    """No run that it speaks of had finished, and none of them is among those it was fitted to."""
    content = json.loads((study.path / "predictions.json").read_text(encoding="utf-8"))
    for entry in content["entries"]:
        expected, fitted = ({run["run_id"] for run in entry[name]} for name in ("expected", "fitted_to"))
        assert not expected & fitted
        written_at = entry.get("written_at", content["written_at"])
        assert (table.loc[table["run_id"].isin(expected), "updated_at"] > written_at).all()
    labels = {run["label"] for entry in content["entries"] for run in entry["expected"]}
    assert labels == {"micro, steps=8000", "mini, steps=8000"}


def test_kept_files_are_small_and_name_no_folder_of_a_machine() -> None:
    """They travel with every clone, and are read by strangers."""
    files = list(FOLDER.iterdir())
    assert sum(path.stat().st_size for path in files) < MEGABYTES * 2**20
    texts = [path.read_bytes() for path in files if path.suffix in (".html", ".md", ".json")]
    with tarfile.open(FOLDER / reference_study.RECORDS) as archive:
        texts += [file.read() for member in archive if (file := archive.extractfile(member)) is not None]
    assert len(texts) > len(files)
    assert not [found for text in texts if (found := re.search(rb"[\"'( ]/(?:home|root|work|tmp|mnt)/", text))]
