"""Laws of errors on other test sets, of a made-up study whose exponents are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from law_studies import StudySpec, write_study

from analysis.findings.other_sets import evaluated, laws, other_sets
from analysis.findings.series import PARAMETERS
from analysis.reporting.render import render
from analysis.study.records import read_study


@pytest.mark.slow(seconds=4)
def test_each_set_has_its_law(tmp_path: Path) -> None:
    """An exponent for every set that was evaluated, of the runs that were; a set of one run has no law, and says so."""
    path = write_study(tmp_path / "study", StudySpec(noise=0, scratch=False))
    folders = sorted((path / "runs").glob("*/classify"))
    for number, folder in enumerate(folders):
        result = json.loads((folder / "result.json").read_text())
        error = 2 * result["params_backbone"] ** -0.1
        scores = {"imagenet-r": {"images": 9, "top1": 1 - error, "top5": 0.9}} if number else {}
        scores |= {"imagenet-c-ema": {"images": 9, "top1": 0.1, "top5": 0.2}} if number == 1 else {}
        (folder / "benchmarks.json").write_text(json.dumps(scores))
    study = read_study(path)
    assert [target.name for target in evaluated(study)] == ["error on ImageNet-R", "error on ImageNet-C (EMA)"]
    fits = {(points.target.metric, points.axis): points.fit for points in laws(study)}
    assert fits["top1/imagenet-r", PARAMETERS].b == pytest.approx(0.1, abs=1e-6)  # type: ignore[union-attr]
    found = {finding.question: finding for finding in other_sets(study)}
    on_r = found["Does the error on ImageNet-R fall with backbone parameters?"]
    assert on_r.verdict == "Yes" and "1 − top-1 on ImageNet-R" in on_r.answer  # noqa: RUF001
    assert "1 finished run not evaluated." in on_r.detail and "left out" not in on_r.detail
    assert found["Does the error on ImageNet-C (EMA) fall with backbone parameters?"].verdict == "Cannot say"
    page = render(study, list(found.values()))
    assert "ImageNet-R" in page


def test_a_study_without_evaluations_has_no_such_finding(tmp_path: Path) -> None:
    """Nothing is said of sets that no run was evaluated on."""
    assert other_sets(read_study(write_study(tmp_path / "study", StudySpec()))) == []
