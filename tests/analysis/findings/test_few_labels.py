"""Studies over labels: the laws and the factor put in come back, and nothing is claimed that curves do not show."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from label_studies import LabelSpec, write
from law_studies import StudySpec, write_study
from study_files import write_json
from study_shapes import with_plan

from analysis.findings.comparison import comparison, gain
from analysis.findings.few_labels import LABELS, arms, few_labels, worth
from analysis.findings.series import CLASSIFICATION, FINETUNED, PARAMETERS, Series, series
from analysis.fit.power_law import PowerLawFit
from analysis.fit.shift import Shift
from analysis.fit.student import MeanRatio, NoFit
from analysis.reporting.build import answer
from analysis.reporting.figures import drawing
from analysis.reporting.figures.compute_plots import spending
from analysis.reporting.figures.sensitivity import few_labels_plot, settings
from analysis.reporting.render import render
from analysis.study.records import read_study


def test_laws_and_worth_come_back_for_every_size(tmp_path: Path) -> None:
    """Three times at nano, none at femto: both exponents, and the factor inside its interval, for both tasks."""
    study = read_study(write(tmp_path, LabelSpec(factors={"femto": 1.0, "nano": 3.0})))
    for target in FINETUNED:
        femto, nano = arms(study, target)
        assert (femto.size, nano.size) == ("femto", "nano")
        for one, factor in ((femto, 1.0), (nano, 3.0)):
            for curve in (one.pretrained, one.scratch):
                assert isinstance(curve.fit, PowerLawFit) and curve.axis is LABELS
                assert curve.fit.b == pytest.approx(0.35, abs=0.04) and curve.fit.n == 5
            found = worth(one)
            assert isinstance(found, Shift) and factor in found.interval
    verdicts = {finding.question: finding.verdict for finding in few_labels(study)}
    assert len(verdicts) == 12
    assert verdicts["Is pretraining worth labels, by the classification error, nano?"] == "Yes"
    assert verdicts["Is pretraining worth labels, by the classification error, femto?"] == "Not shown"
    assert verdicts["Does the segmentation error fall with labelled images, from scratch, nano?"] == "Yes"


def test_numbers_of_labels_are_no_pairs_of_their_own(tmp_path: Path) -> None:
    """Of several sizes the gain counts each once, at the most labels: the others share its pre-training. The frontier
    compares runs of equal labels, too."""
    study = read_study(write(tmp_path, LabelSpec(factors={"femto": 2.0, "pico": 2.5, "nano": 3.0})))
    ratio = gain(comparison(study, CLASSIFICATION))
    assert isinstance(ratio, MeanRatio) and ratio.n == 3
    assert set(spending(study, CLASSIFICATION)["label"]) == {f"fraction=1 {size}" for size in ("femto", "pico", "nano")}


def test_a_curve_over_labels_is_of_one_length(tmp_path: Path) -> None:
    """A run after another length of pre-training at one number of labels is no point of it, even if it is better."""

    def curves(path: Path) -> tuple[Series, Series]:
        (pair,) = arms(read_study(path), CLASSIFICATION)
        return pair.pretrained, pair.scratch

    def lengthen(plan: dict[str, Any]) -> None:
        plan["axes"].append("pretrain.steps")
        for place, run in enumerate(plan["runs"]):
            run["values"]["pretrain.steps"] = 8000 + place * (run["init"] == "scratch")  # which has no use for it
        one = next(run for run in plan["runs"] if run["run_id"] == "nano-pretrain-1024-0")
        short = {**one, "run_id": "short", "values": {**one["values"], "pretrain.steps": 500}}
        plan["runs"].append(short)

    path = write(tmp_path, LabelSpec())
    before = [curve.points["error"].tolist() for curve in curves(path)]
    shutil.copytree(path / "runs" / "nano-pretrain-1024-0", path / "runs" / "short")
    result = path / "runs" / "short" / "classify" / "result.json"
    content = json.loads(result.read_text())
    write_json(result, {**content, "run_id": "short", "metrics": {**content["metrics"], "top1": 0.99}})
    with_plan(path, lengthen)
    assert [curve.points["error"].tolist() for curve in curves(path)] == before


def test_pretraining_that_costs_labels_is_a_no(tmp_path: Path) -> None:
    """Where from scratch needs fewer labels the answer is no, with a factor below 1."""
    study = read_study(write(tmp_path, LabelSpec(factors={"nano": 1 / 3})))
    finding = next(each for each in few_labels(study) if each.question.startswith("Is pretraining worth"))
    stated = re.search(r"worth \S\s([\d.]+) the labels", finding.answer)
    assert finding.verdict == "No" and stated and float(stated[1]) == pytest.approx(1 / 3, rel=0.2)


def test_three_seeds_give_the_interval_of_seeds(tmp_path: Path) -> None:
    """From three seeds on the interval is that of their mean, and the answer says what it covers."""
    one, three = (
        read_study(write(tmp_path / str(count), LabelSpec(seeds=range(count), noise=0.05))) for count in (1, 3)
    )
    (alone,), (several,) = (arms(study, CLASSIFICATION) for study in (one, three))
    assert (alone.seeds, several.seeds) == ([0], [0, 1, 2])
    found = worth(several)
    assert isinstance(found, Shift) and 3.0 in found.interval
    details = [few_labels(study)[2].detail for study in (one, three)]
    assert "rests on 1 seed," in details[0] and "mean over 3 seeds" in details[1]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (LabelSpec(factors={"nano": 1000.0}, b=0.2, a=1.0), "no value that both laws reach"),
        (LabelSpec(b=-0.1, a=0.1), "the error pretrained does not fall"),
        (LabelSpec(images=(1024, 4096)), "2 distinct points"),
        (LabelSpec(noise=0.5, images=(1024, 2048, 4096)), ""),
    ],
)
def test_no_factor_is_stated_where_there_is_none(tmp_path: Path, spec: LabelSpec, reason: str) -> None:
    """Curves without a common error, that rise, of two points, or all noise: cannot say, and why."""
    study = read_study(write(tmp_path, spec))
    (one,) = arms(study, CLASSIFICATION)
    found = worth(one)
    finding = few_labels(study)[2]
    assert isinstance(found, NoFit) and reason in found.reason
    assert finding.verdict == "Cannot say" and found.reason in finding.answer


def test_curves_apart_say_how_far(tmp_path: Path) -> None:
    """Where the fewest labels with pretraining beat the most without, the answer names both."""
    study = read_study(write(tmp_path, LabelSpec(factors={"nano": 1000.0}, b=0.2, a=1.0)))
    detail = few_labels(study)[2].detail.replace("\u00a0", " ")
    assert detail.startswith("With 256 labelled images pretrained has a lower error") and "with 4.1 k" in detail


def test_other_studies_have_no_such_answers(tmp_path: Path) -> None:
    """A study that does not vary labels gets neither answers nor figure; one without controls the laws alone."""
    sizes = read_study(write_study(tmp_path / "sizes", StudySpec()))
    assert few_labels(sizes) == [] and few_labels_plot(sizes, CLASSIFICATION) is None
    alone = few_labels(read_study(write(tmp_path / "alone", LabelSpec(starts=["pretrain"]))))
    assert [finding.question.partition(",")[2] for finding in alone] == [" pretrained?", " pretrained?"]


@pytest.mark.slow(seconds=4)
def test_the_figure_and_the_page_show_it(tmp_path: Path) -> None:
    """One figure for each task with factor and interval in its caption; no curve of a setting beside it."""
    answered = answer(write(tmp_path, LabelSpec(factors={"femto": 1.0, "nano": 3.0})))
    study = answered.study
    plot = few_labels_plot(study, CLASSIFICATION)
    found = worth(arms(study, CLASSIFICATION)[1])
    assert plot is not None and isinstance(found, Shift)
    assert f"{found.factor:#.3g} the labels" in plot.caption and "labelled images go from 256 to 4.1" in plot.alt
    assert drawing.to_svg(plot.figure) == drawing.to_svg(few_labels_plot(study, CLASSIFICATION).figure)  # type: ignore[union-attr]
    assert settings(study) == []
    page = render(study, answered.findings)
    assert "Is pretraining worth labels" in page and plot.alt.split(".")[0] in page


def test_a_seed_without_enough_points_is_not_a_repetition(tmp_path: Path) -> None:
    """A third seed of which two runs are left is taken with all other points, and the interval is that of two laws."""
    folder = write(tmp_path, LabelSpec(seeds=range(3)))
    for images in (256, 512, 1024):
        (folder / "runs" / f"nano-scratch-{images}-2" / "classify" / "result.json").unlink()
    (one,) = arms(read_study(folder), CLASSIFICATION)
    assert (one.seeds, one.scratch.left_out, len(one.scratch.points)) == ([0, 1], 3, 12)
    assert isinstance(worth(one), Shift)


def test_the_best_of_other_settings_stands_for_each_start(tmp_path: Path) -> None:
    """With rates varied beside labels, each start is taken at the rate that is best for it at each number of images."""
    folder = write(tmp_path, LabelSpec(noise=0.0))
    plan = json.loads((folder / "plan.json").read_text())
    rates = {"pretrain": 1.0, "scratch": 2.0}
    plan["axes"].append("classify.base_lr")
    for run in list(plan["runs"]):
        run["values"]["classify.base_lr"] = rates[run["init"]]
        worse = run | {"run_id": f"{run['run_id']}-worse", "values": run["values"] | {"classify.base_lr": 3.0}}
        shutil.copytree(folder / "runs" / run["run_id"], folder / "runs" / worse["run_id"])
        path = folder / "runs" / worse["run_id"] / "classify" / "result.json"
        content = json.loads(path.read_text())
        content["metrics"]["top1"] -= 0.001
        write_json(path, content)
        plan["runs"].append(worse)
    write_json(folder / "plan.json", plan)
    (one,) = arms(read_study(folder), CLASSIFICATION)
    found = worth(one)
    assert [len(series.points) for series in (one.pretrained, one.scratch)] == [5, 5]
    assert isinstance(found, Shift) and found.factor == pytest.approx(3.0)


def test_sizes_are_compared_at_equal_labels(tmp_path: Path) -> None:
    """Where one size alone has other numbers of labels, the law over sizes takes the number that all have."""
    path = write(tmp_path, LabelSpec(factors={"femto": 1.0, "nano": 1.0}))
    plan = json.loads((path / "plan.json").read_text(encoding="utf-8"))
    plan["runs"] = [run for run in plan["runs"] if run["run_id"].startswith("nano") or "-1024-" in run["run_id"]]
    write_json(path / "plan.json", plan)
    for folder in (path / "runs").glob("femto-*"):
        if "-1024-" not in folder.name:
            shutil.rmtree(folder)
    study = read_study(path)
    (one,) = arms(study, CLASSIFICATION)
    assert one.size == "nano"
    for start in ("pretrain", "scratch"):
        points = series(study, CLASSIFICATION, PARAMETERS, start).points
        assert sorted(points["run_id"]) == [f"femto-{start}-1024-0", f"nano-{start}-1024-0"]
