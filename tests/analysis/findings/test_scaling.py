"""The sentences say what the numbers say, and no more."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_files import write_status

from analysis.findings.comparison import beats_majority, comparison, gain_question
from analysis.findings.finding import Finding
from analysis.findings.scaling import exponents_apart, find
from analysis.findings.series import CLASSIFICATION, COMPUTE, PARAMETERS, SCRATCH, best_score, series
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import NoFit
from analysis.study.records import read_study

MakeStudy = Callable[..., Path]


def answers(path: Path) -> dict[str, Finding]:
    """Findings of the study in ``path`` by question."""
    return {finding.question: finding for finding in find(read_study(path))}


def test_known_law_is_found_and_stated(make_study: MakeStudy) -> None:
    """The exponent put into the made-up study stands in the sentence, with its interval and n."""
    law = answers(make_study(noise=0.0))["Does the classification error fall with backbone parameters?"]
    assert law.verdict == "Yes"
    assert "exponent b = 0.200" in law.answer
    assert "n = 5 sizes (5 runs)" in law.answer


def test_gain_over_scratch_is_the_factor_put_in(make_study: MakeStudy) -> None:
    """Scratch errors are 1.3 times larger by construction, so pretraining multiplies the error by 0.769."""
    gain = answers(make_study(noise=0.001))[
        "Does pretraining lower the classification error, against training from scratch?"
    ]
    assert gain.verdict == "Yes"
    assert "multiplies the error by 0.769" in gain.answer
    assert "Better at 5 of 5 sizes" in gain.detail


def test_majority_baselines_are_stated_with_margins(make_study: MakeStudy) -> None:
    """Majority class and background-only mask are named with the margin of every size."""
    path = make_study()
    found = answers(path)
    for name in (
        "the most frequent class for every image",
        "the background alone, a mask without any object",
    ):
        assert found[f"Do the models beat the majority baseline, {name}?"].verdict == "Yes"
    rows = comparison(read_study(path), CLASSIFICATION).rows
    assert list(rows.index) == ["nano", "micro", "mini", "tiny", "small"]
    assert (rows["majority"] == 0.104).all()


def test_model_worse_than_the_majority_baseline_is_said(make_study: MakeStudy) -> None:
    """A size below the majority class turns the verdict."""
    path = make_study()
    result = path / "runs" / "nano-pretrain-s0" / "classify" / "result.json"
    content = json.loads(result.read_text())
    content["metrics"]["top1"] = 0.05
    result.write_text(json.dumps(content))
    finding = answers(path)["Do the models beat the majority baseline, the most frequent class for every image?"]
    assert finding.verdict == "Partly"
    assert "4 of 5" in finding.answer


def test_unfinished_runs_are_left_out_and_counted(make_study: MakeStudy) -> None:
    """R2: a failed run is excluded from the fit and the sentence says how many were."""
    path = make_study(seeds=(0, 1))
    directory = path / "runs" / "tiny-pretrain-s1" / "classify"
    (directory / "result.json").unlink()
    status = json.loads((directory / "status.json").read_text()) | {"state": "failed"}
    (directory / "status.json").write_text(json.dumps(status))
    law = answers(path)["Does the classification error fall with backbone parameters?"]
    assert "n = 5 sizes (9 runs)" in law.answer
    assert "1 unfinished, failed or unreadable run left out." in law.detail


def test_a_run_that_missed_a_milestone_is_no_data_point(make_study: MakeStudy) -> None:
    """What it logged until then is there to be looked at, but no law, of its own or of what waited for it, has it."""
    path = make_study()
    run = path / "runs" / "tiny-pretrain-s0"
    errors = {"pretrain": "milestone: skill is 0.02 after step 300, not at least 0.1 (pretrain.milestones)"}
    for task in ("pretrain", "classify", "segment"):
        (run / task / "result.json").unlink()
        write_status(run / task, "failed", step=300, error=errors.get(task, "not started: pretrain failed"))
    table = read_study(path).table.query("run_id == 'tiny-pretrain-s0'").set_index("task")
    assert table["error"].str.startswith("milestone: ").to_dict() == {
        "pretrain": True,
        "classify": False,
        "segment": False,
    }
    assert table.filter(like="metrics.").isna().all(axis=None)
    assert table[["flops_train", "pretrain_flops"]].isna().all(axis=None)
    for name in ("classification", "segmentation"):
        law = answers(path)[f"Does the {name} error fall with backbone parameters?"]
        assert "n = 4 sizes (4 runs)" in law.answer
        assert "1 unfinished, failed or unreadable run left out." in law.detail


def test_two_sizes_are_no_law(make_study: MakeStudy) -> None:
    """R3: too few sizes give a reason and no exponent."""
    law = answers(make_study(sizes={"nano": 25_000, "micro": 98_304}))[
        "Does the classification error fall with backbone parameters?"
    ]
    assert law.verdict == "Cannot say"
    assert "at least 3" in law.answer
    assert "exponent" not in law.answer


def test_scratch_stands_at_its_sizes_flops_without_a_law(make_study: MakeStudy) -> None:
    """On the compute axis a control takes the pretraining FLOPs of its size and is never fitted."""
    study = read_study(make_study())
    control, pretrained = (
        series(study, CLASSIFICATION, COMPUTE, SCRATCH),
        series(study, CLASSIFICATION, COMPUTE),
    )
    assert control.points["x"].tolist() == pretrained.points["x"].tolist()
    assert isinstance(control.fit, NoFit)
    assert isinstance(pretrained.fit, PowerLawFit)


def test_best_setting_stands_for_its_size_with_all_its_seeds(make_study: MakeStudy) -> None:
    """Where a plan varies the learning rate too, the best one stands for its size, not a mean over all."""
    path = make_study(seeds=(0, 1, 2, 3), scratch=False)
    plan = json.loads((path / "plan.json").read_text())
    plan["axes"].append("train.lr")
    for run in plan["runs"]:
        poor = run["values"]["seed"] >= 2
        run["values"]["train.lr"] = 1.0 if poor else 0.001
        result = path / "runs" / run["run_id"] / "classify" / "result.json"
        content = json.loads(result.read_text())
        content["metrics"]["top1"] *= 0.5 if poor else 1.0
        result.write_text(json.dumps(content))
    (path / "plan.json").write_text(json.dumps(plan))
    points = series(read_study(path), CLASSIFICATION, PARAMETERS).points
    assert {run_id.rpartition("-")[2] for run_id in points["run_id"]} == {"s0", "s1"}
    assert len(points) == 10


@pytest.mark.parametrize("plan", [True, False])
def test_study_of_one_unfinished_run_is_answered(make_study: MakeStudy, plan: bool) -> None:
    """A study that has only begun gives 'Cannot say' everywhere and never a traceback."""
    path = make_study(sizes={"micro": 98_304}, scratch=False, plan=plan)
    for result in path.glob("runs/*/*/result.json"):
        result.unlink()
    assert {finding.verdict for finding in find(read_study(path))} == {"Cannot say"}


def test_a_fall_too_steep_for_numbers_is_no_law(make_study: MakeStudy) -> None:
    """R4: five sizes within a thousandth, with errors from 0.9 to 0.001: a reason, and no traceback."""
    path = make_study(sizes={f"s{i}": 100_000_000 + 20_000 * i for i in range(5)}, scratch=False)
    for i in range(5):
        file = path / "runs" / f"s{i}-pretrain-s0" / "classify" / "result.json"
        content = json.loads(file.read_text())
        content["metrics"]["top1"] = 1 - 0.9 * 10 ** (-0.74 * i)
        file.write_text(json.dumps(content))
    law = answers(path)["Does the classification error fall with backbone parameters?"]
    assert law.verdict == "Cannot say" and "range of numbers" in law.answer


MAJORITY = "Do the models beat the majority baseline, the most frequent class for every image?"


def at_chance(path: Path, scores: Sequence[float], images: int | None) -> Finding:
    """The answer to ``MAJORITY`` of a study whose pretrained sizes have the ``scores``, over so many images."""
    for file, score in zip(sorted(path.glob("runs/*-pretrain-s0/classify/result.json")), scores, strict=True):
        content = json.loads(file.read_text())
        content["metrics"] |= {"top1": score, "top1_majority": 0.104}
        file.write_text(json.dumps(content | ({} if images is None else {"validation_images": images})))
    return answers(path)[MAJORITY]


@pytest.mark.parametrize(
    ("scores", "images", "verdict"),
    [
        ((0.11, 0.10, 0.12, 0.095, 0.11), 1024, "Not shown"),
        ((0.11, 0.10, 0.12, 0.095, 0.11), None, "Not shown"),
        ((0.11, 0.30, 0.40, 0.50, 0.60), 1024, "Partly"),
        ((0.25, 0.30, 0.40, 0.50, 0.60), 1024, "Yes"),
        ((0.12, 0.13, 0.12, 0.13, 0.12), 100_000, "Yes"),
        ((0.02, 0.03, 0.02, 0.03, 0.02), 1024, "No"),
    ],
)
def test_a_margin_over_the_majority_baseline_counts_beyond_chance_alone(
    make_study: MakeStudy, scores: Sequence[float], images: int | None, verdict: str
) -> None:
    """A point above the majority baseline over 1,024 images is chance, over 100,000 it is not."""
    finding = at_chance(make_study(), scores, images)
    assert finding.verdict == verdict
    assert images is None or f"{images:,}" in finding.detail


def test_models_at_chance_seldom_beat_the_majority_baseline(make_study: MakeStudy) -> None:
    """Of 400 made-up comparisons of four sizes at chance over 1,024 images at most 5 % say anything but Not shown."""
    random, compared = np.random.default_rng(0), comparison(read_study(make_study()), CLASSIFICATION)
    said = 0
    for _ in range(400):
        labels = np.bincount(random.integers(0, 10, 1024), minlength=10) / 1024
        rows = compared.rows.assign(pretrained=random.binomial(1024, 0.1, 5) / 1024, majority=labels.max())
        images = compared.images.fillna(1024.0)
        said += beats_majority(replace(compared, rows=rows, images=images)).verdict not in ("Not shown", "No")
    assert said / 400 <= 0.05


def test_fine_tunings_of_one_pretraining_count_once_above_the_majority_baseline(make_study: MakeStudy) -> None:
    """Where the number of images is not known, the mean over labels takes one of several numbers of labels."""
    compared = comparison(read_study(make_study()), CLASSIFICATION)
    rows = compared.rows.assign(pretrained=[0.30, 0.31, 0.30, 0.31, 0.30], majority=0.1)
    some = replace(compared, rows=rows, images=compared.images * np.nan, independent=compared.rows["majority"].notna())
    some.independent.iloc[2:] = False
    assert beats_majority(some).detail.startswith("Mean over 2 ")


def test_a_trend_of_runs_from_scratch_is_an_answer(make_study: MakeStudy) -> None:
    """What is certain of the controls stands among the answers, and not in the caption of a figure alone."""
    found = answers(make_study(noise=0.001))
    assert found["Does the classification error of runs from scratch fall with backbone parameters?"].verdict == "Yes"
    assert not any("from scratch" in question for question in answers(make_study(scratch=False, name="alone")))


def test_the_best_score_is_not_that_of_a_control(make_study: MakeStudy) -> None:
    """A control from scratch that is better than all others is no success of the study."""
    path = make_study()
    file = path / "runs" / "small-scratch-s0" / "classify" / "result.json"
    content = json.loads(file.read_text())
    content["metrics"]["top1"] = 0.999
    file.write_text(json.dumps(content))
    table = read_study(path).table
    best = best_score(table, CLASSIFICATION)
    assert best == table.loc[table["init"] == "pretrain", "metrics.top1"].max() < 0.999
    assert best_score(table[table["init"] == "scratch"], CLASSIFICATION) is None


def test_exponents_of_both_starts_are_compared(make_study: MakeStudy) -> None:
    """Equal exponents: a difference near 0 whose interval holds it, narrower than that of either exponent."""
    study = read_study(make_study(noise=0.03))
    said = exponents_apart(study, CLASSIFICATION)
    low, high = (float(end.replace("\u2212", "-")) for end in re.findall(r"interval (\S+) to ([^,]+)", said)[0])
    assert low < 0 < high and "n = 5 sizes" in said and "not shown that they differ" in said
    (gained,) = [one for one in find(study) if one.question == gain_question(CLASSIFICATION)]
    assert said in gained.detail


def test_every_law_named_yes_has_an_effect_with_an_interval(make_study: MakeStudy) -> None:
    """A factor or an exponent and its interval stand in every Yes of a test."""
    found = [one for one in find(read_study(make_study(noise=0.01))) if one.verdict == "Yes" and one.p is not None]
    assert found and all(re.search(r"interval|Interval", one.answer + one.detail) for one in found)
