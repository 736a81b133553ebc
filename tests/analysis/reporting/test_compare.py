"""Several studies beside each other: what differs is found, and no more is said than the intervals carry."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from grid_studies import write_rates
from label_studies import LabelSpec
from label_studies import write as write_labels
from law_studies import StudySpec, write_study
from pages import Page
from scipy import stats

from analysis.findings.series import CLASSIFICATION
from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.report import main
from analysis.reporting.compare import (
    Studies,
    difference,
    environment_table,
    find,
    joined,
    laws_table,
    named,
    plots,
    render,
    scores_table,
    settings_table,
    studies_table,
)
from analysis.study.records import read_study, table_files

MakeStudy = Callable[..., Path]
RATES = "Does the classification error fall with backbone parameters at one rate in all studies?"
LEVELS = "Which study has the lower classification error at the same label?"


def beside(tmp_path: Path, **second: Any) -> Studies:
    """Two studies with little noise; ``second`` is what the second one changes."""
    first = write_study(tmp_path / "first", StudySpec(name="first", noise=0.002, scratch=False))
    changed = StudySpec(**{"name": "second", "noise": 0.002, "scratch": False, **second})
    return named([read_study(first), read_study(write_study(tmp_path / "second", changed))])


def test_another_exponent_is_found_with_its_size(tmp_path: Path) -> None:
    """Exponents 0.2 and 0.3 differ by 0.1: the verdict says so, and the stated interval holds it."""
    finding = {one.question: one for one in find(beside(tmp_path, b=0.3))}[RATES]
    assert finding.verdict == "No" and "These differ: first and second" in finding.answer
    low, high = finding.answer.partition("first: ")[2].partition(". ")[0].split(" to ")
    assert float(low) < 0.1 < float(high.removesuffix("."))


def test_equal_exponents_are_not_called_equal(tmp_path: Path) -> None:
    """With one law for both, no difference is shown; a level twice as low is shown at every size."""
    found = {one.question: one for one in find(beside(tmp_path, a=2.0))}
    assert found[RATES].verdict == "Not shown" and "no proof of equality" in found[RATES].answer
    assert found[LEVELS].verdict == "Yes" and "second is better at 5 of 5" in found[LEVELS].answer
    assert "0.50" in found[LEVELS].answer or "0.49" in found[LEVELS].answer


def test_fine_tunings_of_one_pretraining_are_one_pair(tmp_path: Path) -> None:
    """Five numbers of labels at three sizes are three pairs, as on the page of one study."""
    factors = {"femto": 2.0, "pico": 3.0, "nano": 4.0}
    paths = [write_labels(tmp_path / name, LabelSpec(factors, a=a)) for name, a in (("one", 4.0), ("two", 3.0))]
    found = {one.question: one for one in find(named([read_study(path) for path in paths]))}
    assert "better at 3 of 3" in found[LEVELS].answer


def test_settings_of_one_size_are_pairs_of_their_own(tmp_path: Path) -> None:
    """Each learning rate has a pre-training of its own; the one run that failed is no pair."""
    paths = [write_rates(tmp_path / name) for name in ("one", "two")]
    found = {one.question: one for one in find(named([read_study(path) for path in paths]))}
    assert "better at 0 of 11" in found[LEVELS].answer


def test_labels_that_both_studies_have_are_compared(tmp_path: Path) -> None:
    """Whichever number of labels each study has most of: of those that both have, one is taken."""
    factors = {"femto": 2.0, "pico": 3.0, "nano": 4.0}
    spec = LabelSpec(factors)
    paths = [write_labels(tmp_path / "one", spec), write_labels(tmp_path / "two", LabelSpec(factors, spec.images[::2]))]
    found = {one.question: one for one in find(named([read_study(path) for path in paths]))}
    assert " of 3" in found[LEVELS].answer


def test_studies_without_a_common_label_are_no_pair(tmp_path: Path) -> None:
    """There is nothing to compare at equal labels, which is an answer and no crash."""
    found = {one.question: one for one in find(beside(tmp_path, sizes={"other": 50_000, "more": 200_000}))}
    assert found[LEVELS].verdict == "Cannot say" and "of the same label" in found[LEVELS].answer


def test_intervals_of_several_pairs_hold_together(tmp_path: Path) -> None:
    """Of three studies there are three differences, each with an interval wider than of two studies."""
    two = beside(tmp_path, b=0.22)
    three = write_study(tmp_path / "third", StudySpec(name="third", noise=0.002, scratch=False))
    widths = []
    for studies in (two, named([*two.values(), read_study(three)])):
        answer = {one.question: one for one in find(studies)}[RATES].answer
        low, high = answer.partition("second \u2212 first: ")[2].split(";")[0].partition(". ")[0].split(" to ")
        widths.append(float(high.removesuffix(".")) - float(low.replace("\u2212", "-")))
    assert widths[1] == pytest.approx(widths[0] * stats.t.ppf(1 - 0.025 / 3, 6) / stats.t.ppf(0.975, 6), rel=0.1)


def test_too_small_studies_say_why(tmp_path: Path) -> None:
    """A study of two sizes has no law: it is named with the reason, and nothing is compared."""
    studies = beside(tmp_path, sizes={"nano": 25_000, "micro": 98_304})
    finding = {one.question: one for one in find(studies)}[RATES]
    assert finding.verdict == "Cannot say" and "second: 2 distinct points" in finding.detail
    assert any("at least 3" in row[-1] for row in laws_table(studies).rows)


def test_intervals_of_differences_cover() -> None:
    """Over 400 pairs of noisy lines of unlike scatter, 95 % intervals hold the true difference as often as they say."""
    random = np.random.default_rng(0)
    x = np.geomspace(1e4, 1e7, 6)
    held = 0
    for _ in range(400):
        fits = [fit_power_law(x, 4 * x**-b * np.exp(random.normal(0, sd, 6))) for b, sd in ((0.2, 0.02), (0.25, 0.08))]
        first, second = fits
        assert isinstance(first, PowerLawFit) and isinstance(second, PowerLawFit)
        held += 0.05 in difference(first, second)
    assert 0.92 <= held / 400 <= 0.98


def test_only_differences_stand_in_the_tables(tmp_path: Path) -> None:
    """A setting and a version that differ are listed, equal ones are not; labels of one study alone have a dash."""
    beside(tmp_path, sizes={"nano": 25_000, "micro": 98_304, "mini": 393_216})
    for file in (tmp_path / "second").glob("runs/*/*/result.json"):
        content = json.loads(file.read_text())
        content["config"]["train.lr"] = 0.1
        content["versions"]["torch"] = "9.9"
        file.write_text(json.dumps(content))
    studies = named([read_study(tmp_path / name) for name in ("first", "second")])
    assert [list(row) for row in settings_table(studies).rows] == [["train.lr", "0.001", "0.1"]]
    assert [list(row) for row in environment_table(studies).rows] == [["torch", "2.9.0", "9.9"]]
    rows = {row[0]: row[1:] for row in scores_table(studies, CLASSIFICATION).rows}
    assert list(rows) == ["nano", "micro", "mini", "tiny", "small"]
    assert rows["small"][1] == "\u2013" and rows["nano"][1] != "\u2013"
    assert [row[5] for row in studies_table(studies).rows] == ["15 of 15", "9 of 9"]


def test_figures_tell_studies_apart_without_colour(tmp_path: Path) -> None:
    """Each study has a marker and a line of its own, and each keeps its own law within its own range."""
    for plot in plots(beside(tmp_path)):
        (axes,) = plot.figure.axes
        legend = axes.get_legend()
        assert legend is not None
        assert [entry.get_text() for entry in legend.get_texts()] == ["first", "second"]
        looks = {(line.get_marker(), str(line.get_linestyle())) for line in legend.get_lines()}
        assert len(looks) == 2
        assert "first: Pretrained" in plot.alt and "second: Pretrained" in plot.alt


def test_one_table_takes_studies_with_other_columns(make_study: MakeStudy, tmp_path: Path) -> None:
    """A setting that is words in one study and a number in the other, and one that is not there, can be written."""
    paths = [make_study(scratch=False, name="one"), make_study(scratch=False, name="two", sizes={"a": 1000})]
    for path, axis in zip(paths, ("words", 3), strict=True):
        plan = json.loads((path / "plan.json").read_text())
        plan["axes"] += ["x.y", f"only.{path.name}"]
        for run in plan["runs"]:
            run["values"] |= {"x.y": axis, f"only.{path.name}": 1}
        (path / "plan.json").write_text(json.dumps(plan))
    parquet, _ = table_files(joined(named([read_study(path) for path in paths])))
    table = pd.read_parquet(io.BytesIO(parquet))
    assert table["config.x.y"].tolist() == ["words"] * 15 + ["3"] * 3
    assert table["config.only.two"].notna().sum() == 3


def test_names_are_told_apart(make_study: MakeStudy, tmp_path: Path) -> None:
    """Studies that call themselves the same are named by their folders, too."""
    one = make_study(scratch=False, sizes={"a": 1000})
    other = write_study(tmp_path / "other", StudySpec(scratch=False, sizes={"a": 1000}))
    names = list(named([read_study(one), read_study(other)]))
    assert names == ["model_size (model_size)", "model_size (other)"]


@pytest.mark.slow(seconds=3)
def test_the_page_is_whole_escaped_and_repeatable(tmp_path: Path) -> None:
    """Nothing outside is needed, hostile names stay text, the same studies give the same bytes."""
    evil = "<script>alert(1)</script> $\\frac{"
    studies = beside(tmp_path, name=evil)
    pages = [render(studies) for _ in range(2)]
    assert pages[0] == pages[1]
    page = Page(pages[0])
    assert evil in " ".join(page.text) and "alert" not in "".join(page.scripts)
    assert all(reference.startswith(("#", "data:image/svg+xml;base64,")) for reference in page.references)
    assert page.tags.count("img") == 4


@pytest.mark.slow
def test_the_command_takes_several_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each study gets its report, the common page goes where it is asked for, else into the first folder."""
    sizes = {"nano": 25_000, "micro": 98_304, "mini": 393_216}
    beside(tmp_path, sizes=sizes)
    folders = [str(tmp_path / name) for name in ("first", "second")]
    assert main(folders) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "first" / "side_by_side.html")
    assert all((tmp_path / name / "report.html").is_file() for name in ("first", "second"))
    assert main([*folders, f"page={tmp_path / 'both.html'}"]) == 0
    runs = pd.read_parquet(tmp_path / "both.parquet")
    assert runs.groupby("study").size().to_dict() == {"first": 15, "second": 9}
    assert list(pd.read_csv(tmp_path / "both.csv").columns) == list(runs.columns)
    assert (tmp_path / "both.html").read_text() == (tmp_path / "first" / "side_by_side.html").read_text()


COMPUTE_NEEDED = "Which study needs less compute for the same classification error?"


def test_equal_errors_are_compared_by_compute(tmp_path: Path) -> None:
    """Errors 0.9 times as high at each size, laws N^-0.2: of compute, which grows with N, it takes 0.9^5 as much."""
    found = {one.question: one for one in find(beside(tmp_path, a=3.6))}[COMPUTE_NEEDED]
    assert found.verdict == "Yes"
    said = re.findall(r"second needs (\S+) times the compute of first for an error of", found.answer)
    assert float(said[0]) == pytest.approx(0.9**5, rel=0.1)
    low, high = re.findall(r"interval (\S+) to (\S+)\)", found.answer)[0]
    assert float(low) < 0.9**5 < float(high)


def test_studies_without_a_common_error_are_not_compared_by_compute(tmp_path: Path) -> None:
    """The reason stands in the detail."""
    found = {one.question: one for one in find(beside(tmp_path, a=0.1))}[COMPUTE_NEEDED]
    assert found.verdict == "Cannot say" and "no error in common" in found.detail
