"""Arms tried at several rates: the best on tuning images stands for each, whatever the reported score says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from label_studies import LabelSpec
from label_studies import write as write_labels
from law_studies import StudySpec, write_study
from study_files import write_json, write_task
from tried_studies import KEY, OWN, Tried, write_tried

from analysis.findings.comparison import comparison
from analysis.findings.learning_rates import tries, tuned_rates
from analysis.findings.series import CLASSIFICATION, FINETUNED, PARAMETERS, SCRATCH, scaled_axes, series
from analysis.reporting.build import answer, write_report
from analysis.reporting.compare import joined, named, scores
from analysis.reporting.figures import drawing
from analysis.reporting.figures.sensitivity import tuned_plot
from analysis.study.columns import settings
from analysis.study.records import Study, read_study


def chosen(study: Study) -> dict[tuple[str, str, int], float]:
    """{(size, start, seed): rate} of the rows that answers rest on."""
    rows = study.table[study.table["task"] == "classify"]
    keys = rows[["label", "init", "seed"]].itertuples(index=False, name=None)
    return dict(zip(keys, rows[f"config.{KEY}"], strict=True))


BOTH = Tried(
    {
        ("femto", "pretrain", 0): {0.003: (0.5, 0.9), 0.01: (0.6, 0.4), 0.03: (0.55, 0.95)},
        ("femto", "pretrain", 1): {0.003: (0.7, 0.42), 0.01: (0.6, 0.9), 0.03: (0.1, 0.9)},
        ("femto", "scratch", 0): {0.003: (0.2, 0.9), 0.01: (0.3, 0.9), 0.03: (0.4, 0.31)},
        ("femto", "scratch", 1): {0.003: (0.3, 0.33), 0.01: (0.3, 0.9), 0.03: (0.3, 0.9)},
    }
)


def test_the_tuning_score_alone_decides(tmp_path: Path) -> None:
    """Per size, start and seed the best on tuning images; the lowest rate of a tie; the reported score has no say."""
    study = read_study(write_tried(tmp_path, BOTH))
    assert chosen(study) == {
        ("femto", "pretrain", 0): 0.01,
        ("femto", "pretrain", 1): 0.003,
        ("femto", "scratch", 0): 0.03,
        ("femto", "scratch", 1): 0.003,
    }
    rows = comparison(study, CLASSIFICATION).rows
    assert rows.loc["femto", "pretrained"] == pytest.approx((0.4 + 0.42) / 2)
    assert rows.loc["femto", "scratch"] == pytest.approx((0.31 + 0.33) / 2)
    assert series(study, CLASSIFICATION, PARAMETERS).points["error"].tolist() == pytest.approx([0.6, 0.58])
    assert len(series(study, CLASSIFICATION, PARAMETERS, SCRATCH).points) == 2
    assert set(study.table["label"]) == {"femto"}  # rates are no part of a label
    assert settings(study.table, study.results, study.tuned).nunique() == 1  # arms of two rates are partners


def test_every_run_stays_in_the_files_with_a_column(tmp_path: Path) -> None:
    """results.csv and results.parquet have all rows, one of each arm marked; the page's table shows them, too."""
    found = answer(write_tried(tmp_path, BOTH))
    parquet, csv, page = write_report(found.study, found.findings)
    for table in (pd.read_parquet(parquet), pd.read_csv(csv)):
        assert len(table) == 12
        assert table["chosen"].sum() == 4
        assert table.groupby(["init", "seed"])["chosen"].sum().eq(1).all()
        assert table[f"config.{KEY}"].nunique() == 3
    text = page.read_text()
    assert all(f"femto-pretrain-0-{rate}" in text for rate in (0.003, 0.01, 0.03))


def test_many_settings_are_counted_not_named(tmp_path: Path) -> None:
    """A reader of nine settings wants to know how often each rate won, and how often at the edge."""
    won = {size: 0.03 if size in OWN[:2] else 0.01 for size in OWN}
    arms = {
        (size, start, 0): {rate: (0.6 if rate == won[size] else 0.5, 0.4) for rate in (0.003, 0.01, 0.03)}
        for size in OWN
        for start in ("pretrain", "scratch")
    }
    (finding,) = tuned_rates(read_study(write_tried(tmp_path, Tried(arms))))
    assert finding.verdict == "No"
    assert "pretrained: 0.01 in 7, 0.03 in 2 of 9 runs" in finding.answer
    assert "from scratch in 2 runs" in finding.answer
    assert not any(size in finding.answer for size in OWN)


def test_the_edge_is_that_of_the_arms_own_values(tmp_path: Path) -> None:
    """Who tried less has reached the end of what was tried sooner, whatever others tried."""
    rates = {0.003: (0.5, 0.4), 0.01: (0.6, 0.4), 0.03: (0.5, 0.4)}
    arms: dict[tuple[str, str, int], Any] = {("femto", start, 0): rates for start in ("pretrain", "scratch")}
    arms["pico", "scratch", 0] = {rate: rates[rate] for rate in (0.003, 0.01)}
    (finding,) = tuned_rates(read_study(write_tried(tmp_path, Tried(arms))))
    assert finding.verdict == "No"
    assert finding.answer.partition("edge")[2].count("pico") == 1 and "femto" not in finding.answer.partition("edge")[2]


def test_failed_rates_do_not_block_the_others_and_are_told(tmp_path: Path) -> None:
    """An arm with a failed and a running rate takes the best of the rest; the answer names both."""
    rates: dict[float, tuple[float, float] | str] = {
        0.003: "failed",
        0.01: (0.6, 0.4),
        0.03: "running",
        0.1: (0.5, 0.9),
    }
    study = read_study(write_tried(tmp_path, Tried({("femto", "pretrain", 0): rates})))
    assert chosen(study) == {("femto", "pretrain", 0): 0.01}
    assert not series(study, CLASSIFICATION, PARAMETERS).left_out
    (finding,) = tuned_rates(study)
    assert "failed: pretrained femto 0.003" in finding.detail
    assert "running: pretrained femto 0.03" in finding.detail
    assert set(study.tried["state"]) == {"finished", "failed", "running"}


def test_an_arm_without_any_score_is_left_out(tmp_path: Path) -> None:
    """Where all rates failed nothing stands for the arm; where runs lack a tuning score none is taken for the best."""
    spec = Tried(
        {
            ("femto", "pretrain", 0): {0.003: "failed", 0.01: "failed"},
            ("femto", "scratch", 0): {0.003: (0.3, 0.9), 0.01: (0.2, 0.9)},
        }
    )
    study = read_study(write_tried(tmp_path, spec))
    assert series(study, CLASSIFICATION, PARAMETERS).left_out == 2
    for run in ("femto-scratch-0-0.003", "femto-scratch-0-0.01"):
        path = tmp_path / "runs" / run / "classify" / "result.json"
        content = json.loads(path.read_text())
        del content["metrics"]["tuning_top1"]
        write_json(path, content)
    bare = read_study(tmp_path)
    assert comparison(bare, CLASSIFICATION).rows.empty
    assert tuned_rates(bare)[0].verdict == "Cannot say"
    assert answer(tmp_path).findings


@pytest.mark.parametrize(
    ("best", "verdict", "edge"),
    [
        ({"pretrain": 0.01, "scratch": 0.01}, "Yes", None),
        ({"pretrain": 0.003, "scratch": 0.01}, "No", "pretrained femto, nano."),
        ({"pretrain": 0.01, "scratch": 0.03}, "No", "from scratch femto, nano."),
    ],
)
def test_an_edge_is_told_with_arm_and_sizes(tmp_path: Path, best: dict[str, float], verdict: str, edge: str) -> None:
    """The answer lists the rates of both arms, and names those at the edge of the grid."""
    arms = {
        (size, start, 0): {rate: (0.9 if rate == top else 0.5, 0.4) for rate in (0.003, 0.01, 0.03)}
        for size in ("femto", "nano")
        for start, top in best.items()
    }
    (finding,) = tuned_rates(read_study(write_tried(tmp_path, Tried(arms))))
    assert finding.verdict == verdict
    assert f"pretrained: femto {best['pretrain']:g}, nano {best['pretrain']:g}" in finding.answer
    assert f"from scratch: femto {best['scratch']:g}, nano {best['scratch']:g}" in finding.answer
    assert ("edge" in finding.answer) == (edge is not None)
    assert edge is None or edge in finding.answer


def test_arms_of_other_grids_are_told(tmp_path: Path) -> None:
    """A comparison of arms that were not tried alike says so."""
    arms: dict[tuple[str, str, int], dict[float, tuple[float, float] | str]] = {
        ("femto", "pretrain", 0): {0.003: (0.1, 0.1), 0.01: (0.2, 0.1), 0.03: (0.1, 0.1)},
        ("femto", "scratch", 0): {0.003: (0.1, 0.1), 0.01: (0.2, 0.1)},
    }
    (finding,) = tuned_rates(read_study(write_tried(tmp_path, Tried(arms))))
    assert "not tuned alike" in finding.detail


FULL = {0.003: (0.1, 0.1), 0.01: (0.2, 0.1), 0.03: (0.1, 0.1)}
ONE = {0.03: (0.1, 0.1)}


def test_arms_are_compared_size_by_size(tmp_path: Path) -> None:
    """That another size has all values in both arms does not make this one's alike: it is named, and no other."""
    arms = {(size, start, 0): FULL for size in ("femto", "nano") for start in ("pretrain", "scratch")}
    assert tuned_rates(read_study(write_tried(tmp_path / "alike", Tried(arms))))[0].detail == ""
    arms["nano", "pretrain", 0] = ONE
    (finding,) = tuned_rates(read_study(write_tried(tmp_path / "unlike", Tried(arms))))
    assert "nano (pretrained 0.03; from scratch 0.003, 0.01, 0.03)" in finding.detail
    assert "femto" not in finding.detail


@pytest.mark.parametrize(("control", "unlike"), [(FULL, False), (ONE, True)])
def test_lengths_that_share_a_control_are_compared_with_it(
    tmp_path: Path, control: dict[float, tuple[float, float]], unlike: bool
) -> None:
    """A label without a control of its own is no difference; what counts are the values of the control that it has."""
    arms = {("femto short", "pretrain", 0): FULL, ("femto long", "pretrain", 0): FULL}
    arms |= {("femto short", "scratch", 0): control, ("nano", "scratch", 0): ONE}
    (finding,) = tuned_rates(read_study(write_tried(tmp_path, Tried(arms))))
    assert ("femto short" in finding.detail) == ("femto long" in finding.detail) == unlike
    assert "nano" not in finding.detail


def test_the_figure_rings_what_was_chosen(tmp_path: Path) -> None:
    """Both arms of each size over the rates, and in words where each is lowest."""
    study = read_study(write_tried(tmp_path, BOTH))
    plot = tuned_plot(study, KEY)
    assert plot is not None
    assert plot.name == "tuned-classify-base_lr"
    assert "at 0.003 and 0.01; femto from scratch" in plot.alt
    rings = [line for line in plot.figure.axes[0].lines if line.get_marker() == "o" and line.get_markersize() == 11]
    assert sorted(x for line in rings for x in line.get_xdata()) == [0.003, 0.003, 0.01, 0.03]  # type: ignore[union-attr]
    assert drawing.to_svg(plot.figure) == drawing.to_svg(plot.figure)
    assert len(tries(study, KEY)) == 12


def test_a_grid_over_rates_alone_scales_nothing(tmp_path: Path) -> None:
    """With nothing varied but rates there is no law to fit, as in grid=finetune_lr."""
    plan = write_tried(tmp_path, BOTH) / "plan.json"
    write_json(plan, json.loads(plan.read_text()) | {"axes": []})
    found = answer(tmp_path)
    assert scaled_axes(found.study) == ()
    assert [finding.question for finding in found.findings if KEY in finding.question]
    assert all("fall with" not in finding.question for finding in found.findings)


def test_studies_without_it_read_as_before(tmp_path: Path) -> None:
    """A plan of an earlier version has every run chosen, and no answer about rates."""
    study = read_study(write_study(tmp_path / "plain", StudySpec()))
    assert study.tuned == ()
    assert study.table["chosen"].all()
    assert len(study.table) == len(study.tried)
    assert tuned_rates(study) == []
    untold = read_study(write_tried(tmp_path / "untold", Tried(BOTH.arms, tuned=False)))
    assert len(untold.table) == 12
    assert untold.table["label"].nunique() > 1  # rates that no plan says were tuned tell runs apart


def _with_tries(study: Path) -> Path:
    """Give every classification a second try: better by the reported score, worse on tuning images."""
    plan = json.loads((study / "plan.json").read_text())
    for run in list(plan["runs"]):
        path = study / "runs" / run["run_id"] / "classify" / "result.json"
        for name, rate, tuning in ((run["run_id"], 0.01, 0.5), (f"{run['run_id']}-b", 0.1, 0.4)):
            content = json.loads(path.read_text())
            content["config"][KEY], content["metrics"]["tuning_top1"], content["run_id"] = rate, tuning, name
            content["metrics"]["top1"] = content["metrics"]["top1"] if rate == 0.01 else 0.999
            write_task(study, name, "classify", content)
        run["tuned"] = {KEY: 0.01}
        again = {**run, "run_id": f"{run['run_id']}-b", "tuned": {KEY: 0.1}, "pretrained_by": run["run_id"]}
        plan["runs"].append({**again, "tasks": {"classify": run["tasks"]["classify"]}})
    write_json(study / "plan.json", plan)
    return study


@pytest.mark.parametrize("kind", ["sizes", "labels"])
def test_nothing_but_the_chosen_runs_is_counted(tmp_path: Path, kind: str) -> None:
    """Laws, gains, worth in labels, comparisons of studies: all answers are those without the other tries."""

    def made(name: str) -> Path:
        sizes = StudySpec(seeds=(0, 1), name="one")
        return write_study(tmp_path / name, sizes) if kind == "sizes" else write_labels(tmp_path / name, LabelSpec())

    plain, tried = answer(made("plain")), answer(_with_tries(made("tried")))
    others = [finding for finding in tried.findings if KEY not in finding.question]
    assert others == list(plain.findings)
    assert len(others) == len(tried.findings) - 1
    first, second = named([plain.study]), named([tried.study])
    assert scores(first, CLASSIFICATION) == scores(second, CLASSIFICATION)
    assert len(joined(second)) > len(joined(first))
    for target in FINETUNED:
        pd.testing.assert_frame_equal(comparison(plain.study, target).rows, comparison(tried.study, target).rows)
