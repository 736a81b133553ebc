"""Figures that show what a study happened to measure: their numbers against what was put in."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from grid_studies import RATES, write_isoflop, write_rates
from named_settings import Setting, write_settings
from study_files import write_json

from analysis.findings.series import CLASSIFICATION, COMPUTE, FINETUNED, PARAMETERS, SHORTFALL, series
from analysis.findings.two_axes import surface_points
from analysis.fit.power_law import PowerLawFit
from analysis.reporting.figures.compute_plots import (
    cost_plot,
    costs,
    frontier,
    frontier_plot,
    isoflop_plot,
    profiles,
    spending,
)
from analysis.reporting.figures.drawing import name_below, new_figure, palette, readable, style, to_svg
from analysis.reporting.figures.label_plots import deviations, pooled, seed_plot
from analysis.reporting.figures.plots import Plot, error_plot, residual_plot, residuals
from analysis.reporting.figures.sensitivity import sensitivity_plot, settings
from analysis.study.records import read_study

MakeStudy = Callable[..., Path]


def drawn(plot: Plot | None) -> Plot:
    """The plot, which is there and can be written."""
    assert plot is not None
    assert to_svg(plot.figure).startswith("<?xml") and len(plot.alt) > 40 and plot.caption.endswith(".")
    return plot


def test_rates_are_drawn_by_size_with_what_diverged(tmp_path: Path) -> None:
    """The best rate of each size stands in the text; a failed run is a cross, not a point; the edge is told."""
    study = read_study(write_rates(tmp_path))
    assert settings(study) == ["pretrain.base_lr"]
    plot = drawn(sensitivity_plot(study, CLASSIFICATION, "pretrain.base_lr"))
    assert "a 50.0\u00a0% at 0.003; b 25.0\u00a0% at 0.01; c 16.7\u00a0% at 0.03" in plot.alt
    assert "n = 11 runs" in plot.caption and "1 run that failed" in plot.caption
    assert "At the edge of the grid: c." in plot.caption
    (axes,) = plot.figure.axes
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [0.03]
    points = [line for line in axes.lines if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in points) == 11
    assert sensitivity_plot(study, FINETUNED[1], "pretrain.base_lr") is None


def test_a_size_has_one_colour_whatever_its_labels(tmp_path: Path) -> None:
    """Labels of a grid of two axes are no sizes: four rates of one size share its colour, and differ in dashes."""
    looks = palette(read_study(write_rates(tmp_path)))
    assert looks.groups == ["a", "b", "c"]
    labels = [f"a base_lr={rate:g}" for rate in RATES]
    assert len({looks.colour(label) for label in labels}) == 1
    assert len({str(looks.dashes[label]) for label in labels}) == len(RATES)
    assert readable(list("abcdefgh"), 3)[::2] == ["a", "h"]


def test_names_do_not_overprint_one_another() -> None:
    """Of two names that would overlap the shorter is written, and none is written over another's point."""
    with style():
        _, axes = new_figure()
        axes.set(xlim=(0, 10), ylim=(0, 10))
        places = {"femto": (3.0, 5.0), "femto with 5 blocks": (4.0, 5.0), "nano": (8.0, 5.0), "below": (8.0, 5.5)}
        name_below(axes, places, left=["nano"])
    notes = {note.get_text(): note.get_window_extent() for note in axes.texts}
    assert set(notes) == {"femto", "nano"}
    middle = (notes["nano"].x0 + notes["nano"].x1) / 2
    assert middle < axes.transData.transform(places["nano"])[0] - 2


def test_residuals_are_those_of_the_law(make_study: MakeStudy) -> None:
    """On a noise-free law they vanish; one size off by 10 % stands out under its name."""
    path = make_study(noise=0.0)
    study = read_study(path)
    one = series(study, CLASSIFICATION, PARAMETERS)
    assert isinstance(one.fit, PowerLawFit)
    np.testing.assert_allclose(residuals(one, one.fit), 0, atol=1e-12)
    file = path / "runs" / "mini-pretrain-s0" / "classify" / "result.json"
    content = json.loads(file.read_text())
    content["metrics"]["top1"] = 1 - 1.1 * (1 - content["metrics"]["top1"])
    file.write_text(json.dumps(content))
    plot = drawn(residual_plot(read_study(path)))
    assert len(plot.figure.axes) == 4
    found = plot.alt.partition("N: n = 5")[2].partition(";")[0]
    assert found.endswith("at mini") and "largest +7." in found  # the line itself moves by a fifth of log 1.1


def test_no_law_no_residuals(make_study: MakeStudy) -> None:
    """Two sizes carry no law, and what is not there is not drawn."""
    study = read_study(make_study(sizes={"nano": 25_000, "micro": 98_304}, scratch=False))
    assert residual_plot(study) is None and seed_plot(study) is None
    assert frontier_plot(study, CLASSIFICATION) is None
    assert isoflop_plot(study, CLASSIFICATION) is None and not settings(study)


def test_the_frontier_holds_what_no_cheaper_run_beats(make_study: MakeStudy) -> None:
    """FLOPs are those of pre-training and fine-tuning together; the envelope equals the one by brute force."""
    study = read_study(make_study(seeds=(0, 1, 2), noise=0.3))
    points = spending(study, CLASSIFICATION)
    table = study.table.set_index(["run_id", "task"])["flops_train"]
    one = points[points["run_id"] == "mini-pretrain-s1"].iloc[0]
    assert one["flops"] == table["mini-pretrain-s1", "pretrain"] + table["mini-pretrain-s1", "classify"]
    control = points[points["run_id"] == "mini-scratch-s1"].iloc[0]
    assert control["flops"] == table["mini-scratch-s1", "classify"]
    pairs = list(zip(points["flops"], points["error"], strict=True))
    expected = {(c, e) for c, e in pairs if not any((d <= c and f < e) or (d < c and f <= e) for d, f in pairs)}
    assert set(zip(frontier(points)["flops"], frontier(points)["error"], strict=True)) == expected
    assert "n = 30 finished runs" in drawn(frontier_plot(study, CLASSIFICATION)).caption


def test_a_run_without_finished_pretraining_is_not_on_the_frontier(make_study: MakeStudy) -> None:
    """What pre-training cost is not known, so the run has no place: it is not taken as free."""
    path = make_study(scratch=False)
    (path / "runs" / "nano-pretrain-s0" / "pretrain" / "result.json").unlink()
    assert "nano-pretrain-s0" not in set(spending(read_study(path), CLASSIFICATION)["run_id"])


def test_spread_over_seeds_is_the_pooled_deviation(make_study: MakeStudy) -> None:
    """Equal to the textbook formula over labels; the interval covers the truth as often as it says."""
    study = read_study(make_study(seeds=(0, 1, 2)))
    points = deviations(study, CLASSIFICATION)
    spread = pooled(points)
    assert spread is not None and (spread.labels, spread.runs) == (5, 15)
    rows = study.table[(study.table["task"] == "classify") & (study.table["init"] == "pretrain")]
    variance = rows.groupby("label")["metrics.top1"].var().mean()
    assert spread.deviation == pytest.approx(math.sqrt(variance))
    random, held = np.random.default_rng(0), 0
    for _ in range(300):
        scores = random.normal(0, 1, (4, 3))
        again = points.iloc[:12].assign(
            label=np.repeat(list("abcd"), 3), deviation=(scores - scores.mean(1, keepdims=True)).ravel()
        )
        found = pooled(again)
        held += found is not None and 1.0 in found.interval
    assert 0.92 <= held / 300 <= 0.98
    plot = drawn(seed_plot(study))
    assert len(plot.figure.axes) == 2 and "n = 15 runs of 5 labels" in plot.caption


def test_cost_is_measured_over_planned(make_study: MakeStudy) -> None:
    """60 s were planned and 12.5 s measured; a task without a price or a result has no point."""
    path = make_study()
    (path / "runs" / "nano-scratch-s0" / "classify" / "result.json").unlink()
    plan = json.loads((path / "plan.json").read_text())
    plan["runs"][0]["tasks"]["pretrain"] = {"seconds": "soon", "flops": None}
    write_json(path / "plan.json", plan)
    study = read_study(path)
    found = costs(study)
    seconds = found[found["quantity"] == "seconds"]
    assert len(seconds) == 23 and set(seconds["measured"] / seconds["planned"]) == {12.5 / 60}
    assert "classify 0.208\u00a0\u00d7 in the median" in drawn(cost_plot(study)).alt
    assert cost_plot(read_study(make_study(plan=False, name="no_plan"))) is None


def test_flops_of_plan_and_result_are_told_only_where_they_differ(make_study: MakeStudy) -> None:
    """Both come from one formula: equal ones compare the code with itself."""
    path = make_study()
    assert "FLOPs" in set(costs(read_study(path))["quantity"])
    plan = json.loads((path / "plan.json").read_text())
    for run in plan["runs"]:
        for task in run["tasks"]:
            content = json.loads((path / "runs" / run["run_id"] / task / "result.json").read_text())
            run["tasks"][task] = run["tasks"][task] | {"flops": content["flops_train"]}
    write_json(path / "plan.json", plan)
    study = read_study(path)
    assert set(costs(study)["quantity"]) == {"seconds"} and len(drawn(cost_plot(study)).figure.axes) == 1


def test_isoflop_minima_are_where_they_were_put(tmp_path: Path) -> None:
    """Four budgets, five sizes each: the minima of exact parabolas and their exponent of one half."""
    study = read_study(write_isoflop(tmp_path))
    found, _ = profiles(surface_points(study, CLASSIFICATION))
    minima = [math.exp(one.log_n) for one in found if one.log_n is not None]
    np.testing.assert_allclose(np.array(minima, dtype=float), 1e4 * np.array([1, 10, 100, 1000]) ** 0.5, rtol=1e-3)
    plot = drawn(isoflop_plot(study, CLASSIFICATION))
    assert "N* \u221d C^0.500 (95\u00a0% interval 0.500 to 0.500), n = 4 budgets" in plot.caption
    assert len([line for line in plot.figure.axes[0].lines if line.get_marker() == "*"]) == 4
    assert "at 31.6 k parameters (95 % interval 31.6 k to 31.6 k; 20.0 %)" in plot.alt.replace("\u00a0", " ")
    assert isoflop_plot(study, SHORTFALL) is None  # all equal: no minimum but one of rounding


@pytest.mark.parametrize(
    ("scatter", "centre", "ends", "said"),
    [
        (0.0005, 1, "||", "interval 9.61"),
        (0.004, 4, "|>", "to beyond the sizes tried;"),
        (0.03, 1, "<>", "interval open: all the sizes tried;"),
    ],
)
def test_isoflop_bars_end_where_the_sizes_tried_do(
    tmp_path: Path, scatter: float, centre: float, ends: str, said: str
) -> None:
    """Intervals are bars: a tick where an end is known, an arrow where it is not, and words for both."""
    plot = drawn(isoflop_plot(read_study(write_isoflop(tmp_path, scatter, centre)), CLASSIFICATION))
    lines = plot.figure.axes[0].lines
    star = next(i for i, line in enumerate(lines) if line.get_marker() == "*")
    bar, *marks = lines[star + 1 : star + 4]
    assert "".join(str(mark.get_marker()) for mark in marks) == ends
    first, last = bar.get_xdata()
    assert (
        lines[star - 1].get_xdata()[0] <= first <= lines[star].get_xdata()[0] <= last <= lines[star - 1].get_xdata()[-1]
    )
    assert said in plot.alt and "95\u00a0% interval" in plot.caption


def test_captions_state_fit_number_interval_and_limits(make_study: MakeStudy) -> None:
    """Exponent, its interval, sizes, runs and those left out stand under the figure, for both starts."""
    path = make_study(noise=0.01)
    (path / "runs" / "tiny-pretrain-s0" / "classify" / "result.json").unlink()
    caption = error_plot(read_study(path), CLASSIFICATION, PARAMETERS).caption.replace("\u00a0", " ")
    assert "Pretrained: exponent 0." in caption and "(95 % interval 0." in caption
    assert "n = 4 sizes (4 runs, 1 left out)" in caption and "From-scratch baseline: exponent" in caption
    assert "dashed beyond the data" in caption
    two = read_study(make_study(sizes={"a": 1000, "b": 2000}, name="two", scratch=False))
    assert "no law, 2 distinct points" in error_plot(two, CLASSIFICATION, COMPUTE).caption


def test_settings_that_are_no_numbers_are_no_axis(tmp_path: Path) -> None:
    """Words, seeds and switches have no log axis; neither have two values."""
    settings_given = {f"s{i}": Setting((0.5,), values={"x.mode": f"m{i}", "x.on": i > 1}) for i in range(4)}
    assert settings(read_study(write_settings(tmp_path / "study", "g", settings_given))) == []
