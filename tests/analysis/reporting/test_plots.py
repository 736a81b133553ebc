"""Figures: what is drawn, that it reads without colour and sight, and that hostile names stay text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.findings.series import CLASSIFICATION, COMPUTE, FINETUNED, PARAMETERS, Series
from analysis.fit.power_law import PowerLawFit, fit_power_law
from analysis.reporting.figures.curve_plots import curve_plot, curves
from analysis.reporting.figures.drawing import log_ticks, short, size_colours, size_dashes, to_svg
from analysis.reporting.figures.plots import Plot, bends, error_plot, rank_plot
from analysis.study.records import read_study

MakeStudy = Callable[..., Path]
AXES = (PARAMETERS, COMPUTE)


def draw_all(path: Path) -> list[Plot]:
    """Every kind of figure of the study in ``path``."""
    study = read_study(path)
    logged = curves(study, {"pretrain": ["eval_skill", "loss"]})
    plots = [error_plot(study, target, axis) for target in FINETUNED for axis in AXES]
    plots += [curve_plot(study, logged, metric, metric) for metric in ("eval_skill", "loss")]
    return [*plots, rank_plot(study)]


def points(line: Line2D) -> NDArray[np.float64]:
    """The points [n, 2] of a drawn line."""
    return np.asarray(line.get_xydata(), dtype=float)


def test_error_plot_draws_every_run_and_a_dashed_extrapolation(make_study: MakeStudy) -> None:
    """All points stand at their parameters and errors; the line goes on dashed beyond the largest size."""
    study = read_study(make_study())
    axes = error_plot(study, CLASSIFICATION, PARAMETERS).figure.axes[0]
    marked = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    drawn = {(float(x), float(y)) for line in marked for x, y in points(line)}
    rows = study.table[study.table["task"] == "classify"]
    assert drawn == set(zip(rows["params_backbone"].astype(float), 1 - rows["metrics.top1"], strict=True))
    dashed = [points(line) for line in axes.lines if line.get_linestyle() == "--" and len(points(line)) > 2]
    assert [float(line[:, 0].min()) for line in dashed] == pytest.approx([6_291_456] * 2)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_text_alternative_carries_range_and_fit(make_study: MakeStudy) -> None:
    """The alternative names both series, the range of sizes and the fitted exponent."""
    alt = error_plot(read_study(make_study(noise=0.0)), CLASSIFICATION, PARAMETERS).alt.replace("\u00a0", " ")
    assert "Pretrained, 5 runs: from 52.8 % to 17.5 % as backbone parameters go from 25 k to 6.29 M" in alt
    assert "fitted exponent 0.200" in alt
    assert "From-scratch baseline, 5 runs" in alt


def test_sizes_differ_without_colour() -> None:
    """In grey the sizes keep distinct, ordered brightness, and neighbouring lines have other dashes."""
    order = ["a", "b", "c", "d", "e"]
    colours = size_colours(order).values()
    luminance = [float(np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722))) for colour in colours]
    assert min(np.diff(luminance)) > 0.05
    assert len({tuple(dashes) for dashes in size_dashes(order).values()}) == len(order)


def test_one_size_one_colour_in_every_figure(make_study: MakeStudy) -> None:
    """The colour of a size does not depend on which other sizes a figure shows."""
    path = make_study()
    study = read_study(path)
    colours = size_colours(["nano", "micro", "mini", "tiny", "small"])
    for plot in draw_all(path):
        used = {to_rgb(line.get_color()) for line in plot.figure.axes[0].lines}
        assert {to_rgb(colour) for colour in colours.values()} <= used, plot.name
    assert study.table["label"].nunique() == 5


@pytest.mark.parametrize(
    "label",
    [
        "<script>alert(1)</script>",
        "$x^{2}$ \\frac{",
        "a'--><b>&amp;",
        "very-long-" * 40,
        "bell\x07null\x01",
        "_x",
        "\u4e2d\u6587",
    ],
)
@pytest.mark.filterwarnings("error")
def test_hostile_names_stay_text(make_study: MakeStudy, label: str) -> None:
    """R6: names with markup, mathtext, control characters or great length draw as well-formed SVG."""
    path = make_study(sizes={"a": 98_304, "b": 393_216, "c": 1_572_864})
    plan = (path / "plan.json").read_text().replace('"label": "a"', f'"label": {json.dumps(label)}')
    (path / "plan.json").write_text(plan)
    for plot in draw_all(path):
        svg = to_svg(plot.figure)
        tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
        assert not tags & {"script", "b"}
    assert len(short(label)) <= 24


def test_empty_figures_say_so(make_study: MakeStudy) -> None:
    """With nothing finished every figure still draws, and its alternative says that it is empty."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    for name in ("result.json", "metrics.jsonl"):
        for file in path.glob(f"runs/*/*/{name}"):
            file.unlink()
    assert all("empty, no finished run" in plot.alt for plot in draw_all(path))


def test_perfect_score_is_left_off_the_log_scale(make_study: MakeStudy) -> None:
    """An error of exactly zero has no place on a log axis; the rest is drawn."""
    path = make_study()
    result = path / "runs" / "small-pretrain-s0" / "classify" / "result.json"
    text = result.read_text()
    start = text.index('"top1": ') + len('"top1": ')
    result.write_text(text[:start] + "1.0" + text[text.index(",", start) :])
    alt = error_plot(read_study(path), CLASSIFICATION, PARAMETERS).alt
    assert "Pretrained, 4 runs" in alt and "no law fitted" in alt


@pytest.mark.parametrize(("low", "high"), [(0.15, 1.15), (0.30, 0.34), (2e4, 3e7), (1e12, 1e24), (0.49, 0.51)])
def test_log_ticks_are_few_and_inside(low: float, high: float) -> None:
    """Narrow and wide ranges alike get two to seven ticks, all inside."""
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)


def test_a_name_that_begins_with_an_underscore_stands_in_the_legend(make_study: MakeStudy) -> None:
    """matplotlib leaves such labels out of legends by itself."""
    study = read_study(make_study(sizes={"_a": 98_304, "b": 393_216}))
    logged = curves(study, {"pretrain": ["loss"]})
    legend = curve_plot(study, logged, "loss", "loss").figure.axes[0].get_legend()
    assert legend is not None
    assert [label.get_text().lstrip("\u200b") for label in legend.get_texts()] == ["_a", "b"]


def test_a_bend_is_a_test_of_stated_error() -> None:
    """Of true power laws at four sizes the caption calls at most one in ten bent; of a strong bend all."""
    x = np.geomspace(1e4, 1e7, 6)
    rng, bent = np.random.default_rng(0), 0
    for _ in range(100):
        y = 4 * x[:4] ** -0.2 * np.exp(rng.normal(0, 0.03, 4))
        bent += "bends" in bends([fitted(x[:4], y)])
    assert bent <= 10
    assert "bends" in bends([fitted(x, 0.1 + 400 * x**-0.6)])
    assert "cannot be told" in bends([fitted(x[:3], x[:3] ** -0.2 * np.array([1, 1.1, 1]))])


def fitted(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Series, PowerLawFit]:
    """A series with its law."""
    fit = fit_power_law(x, y)
    assert isinstance(fit, PowerLawFit)
    points = pd.DataFrame({"label": "a", "run_id": "r", "x": x, "error": y})
    return Series(CLASSIFICATION, PARAMETERS, "pretrain", points, 0, fit), fit
