"""Figures of errors, laws, their residuals and effective ranks, each with a sentence for readers who cannot see it.

Sizes keep one colour everywhere; pretrained and scratch differ by marker and line, so that all can be read in grey too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.findings import text
from analysis.findings.comparison import comparison
from analysis.findings.series import (
    FINETUNED,
    OTHER,
    PRETRAINED,
    SCRATCH,
    Axis,
    Series,
    Target,
    known_on,
    scaled_axes,
    series,
)
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import CONFIDENCE, MIN_POINTS, NoFit, Slope, checked, p_value, slope_given
from analysis.laws.law import Array
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import QUIET, Palette, palette, readable
from analysis.study.records import Study

EXTRAPOLATE = 3.0  # the dashed line reaches this factor beyond the largest x
LOOKS: Mapping[str, Mapping[str, Any]] = {
    start: {"linestyle": "none", "marker": marker, "fillstyle": fill, "markersize": 7}
    for start, marker, fill in ((PRETRAINED, "o", "full"), (OTHER, "^", "full"), (SCRATCH, "s", "none"))
}
"""Of points, by where their runs start."""
LINES: Mapping[str, Any] = {PRETRAINED: "-", OTHER: "--", SCRATCH: "-."}
"""Of their laws."""
PANEL_HEIGHT = 2.6


@dataclass(frozen=True)
class Plot:
    """A figure with its caption and its text alternative."""

    name: str
    figure: Figure
    caption: str
    alt: str


def error_plot(study: Study, target: Target, axis: Axis) -> Plot:
    """Draw the error against ``axis``, log scales: points by size, law with its band, majority baseline."""
    every = [on_log_scales(series(study, target, axis, init)) for init in LOOKS if known_on(axis, init)]
    drawn = [arm for arm in every if not arm.points.empty]
    looks = palette(study)
    majority = 1 - float(comparison(study, target).rows["majority"].mean())
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel=f"{axis.name} {axis.symbol}", ylabel=f"{target.name} ({target.formula})")
        if drawn:
            _error_axes(axes, drawn, majority, axis)
            for arm in drawn:
                _draw_law(axes, arm)
                _draw_points(axes, arm, looks)
            _draw_majority(axes, majority)
            drawing.legend_above(axes)
        else:
            drawing.mark_empty(axes)
    return Plot(
        f"{target.task}-{axis.symbol}",
        figure,
        captions.error_caption(drawn, target, axis),
        captions.error_alt(drawn, target, axis),
    )


def rank_plot(study: Study) -> Plot:
    """Draw the effective rank of embeddings and outputs at the end of pretraining against parameters."""
    rows = study.finished("pretrain")
    kinds = {kind: _ranks(rows, kind) for kind in ("embeddings", "outputs")}
    known = {kind: points for kind, points in kinds.items() if not points.empty}
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel="backbone parameters N", ylabel="effective rank")
        if known:
            _draw_ranks(axes, known, palette(study))
        else:
            drawing.mark_empty(axes)
    caption = "Effective rank of patch embeddings and outputs after pretraining; near 1 would mean collapse."
    return Plot("effective-rank", figure, caption, captions.rank_alt(known))


def on_log_scales(arm: Series) -> Series:
    """``arm`` without the points that have no place on log scales."""
    return replace(arm, points=arm.points[(arm.points["x"] > 0) & (arm.points["error"] > 0)])


def _error_axes(axes: Axes, drawn: Sequence[Series], majority: float, axis: Axis) -> None:
    points = pd.concat([arm.points for arm in drawn])
    heights = [*points["error"], *([majority] if majority > 0 else [])]
    drawing.error_axis(axes, pd.Series(heights))
    fitted = any(isinstance(arm.fit, PowerLawFit) for arm in drawn)
    left, right = float(points["x"].min()), float(points["x"].max()) * (EXTRAPOLATE if fitted else 1)
    margin = max(drawing.MARGIN, (right / left) ** 0.07)  # room for the name of the smallest size
    drawing.log_axis(axes, "x", left / margin, right * margin, captions.form(axis))


def _draw_law(axes: Axes, arm: Series) -> None:
    """Draw the line and its 95 % prediction band: full where there are data, dashed beyond."""
    if not isinstance(arm.fit, PowerLawFit):
        return
    low, high = arm.fit.x_range
    inside, beyond = np.geomspace(low, high, 60), np.geomspace(high, high * EXTRAPOLATE, 30)
    axes.plot(inside, arm.fit.predict(inside).y, color=QUIET, linestyle=LINES[arm.init], linewidth=1.5, zorder=1)
    axes.plot(beyond, arm.fit.predict(beyond).y, color=QUIET, linestyle=(0, (4, 3)), linewidth=1.2, zorder=1)
    if arm.init == PRETRAINED:
        x = np.concatenate([inside, beyond])
        bottom, top = axes.get_ylim()
        band = arm.fit.predict(x)
        low_edge, high_edge = np.clip([band.low, band.high], bottom / 2, top * 2)  # it may reach "anything"
        axes.fill_between(x, low_edge, high_edge, color=QUIET, alpha=0.15, linewidth=0, zorder=0)


def _draw_points(axes: Axes, arm: Series, looks: Palette) -> None:
    look = LOOKS[arm.init]
    groups = arm.points["label"].map(looks.group_of)
    for group, points in arm.points.groupby(groups, sort=False):
        x, y = points["x"].to_numpy(float), points["error"].to_numpy(float)
        axes.plot(x, y, color=looks.colours[str(group)], zorder=3, **look)
    if arm.init != SCRATCH:
        drawing.name_below(axes, last_places(arm.points["x"], arm.points["error"], groups, looks))
    axes.plot([], [], color=QUIET, label=captions.NAMES[arm.init], zorder=3, **look)


def last_places(
    x: pd.Series[float], y: pd.Series[float], groups: pd.Series[str], looks: Palette
) -> dict[str, tuple[float, float]]:
    """The lowest point at the right end of each group, of as many groups as a figure can name."""
    points = pd.DataFrame({"x": x, "y": y}).sort_values(["x", "y"], ascending=[False, True])
    last = points.groupby(groups).first()
    named = readable([group for group in looks.groups if group in last.index])
    return {str(group): (x, y) for group, x, y in last.loc[named].itertuples()}


def _draw_majority(axes: Axes, majority: float) -> None:
    if majority > 0:
        axes.axhline(majority, color=QUIET, linestyle=":", linewidth=1.5, zorder=0, label="majority baseline")


def _draw_ranks(axes: Axes, kinds: Mapping[str, pd.DataFrame], looks: Palette) -> None:
    for kind, points in kinds.items():
        marker, fill, line = ("o", "full", "-") if kind == "embeddings" else ("D", "none", "--")
        means = points.groupby("x")["y"].mean()
        axes.plot(
            means.index.to_numpy(float),
            means.to_numpy(float),
            color=QUIET,
            linewidth=1,
            linestyle=line,
            zorder=1,
        )
        look: dict[str, Any] = {"marker": marker, "fillstyle": fill, "markersize": 7}
        for group, group_points in points.groupby(points["label"].map(looks.group_of), sort=False):
            x, y = group_points["x"].to_numpy(float), group_points["y"].to_numpy(float)
            axes.plot(x, y, color=looks.colours[str(group)], linestyle="none", **look)
        axes.plot([], [], color=QUIET, linestyle=line, linewidth=1, label=kind, **look)
    every = pd.concat(kinds.values())["x"]
    drawing.axis_around(axes, "x", every, text.count)
    axes.set_ylim(bottom=0)
    drawing.legend_above(axes)


def _ranks(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Points [label, x = parameters, y = effective rank] of one kind, smallest model first."""
    ranks = rows.get(f"metrics.effective_rank_{kind}", pd.Series(np.nan, index=rows.index))
    points = pd.DataFrame({"label": rows["label"], "x": rows["params_backbone"].astype("float64"), "y": ranks})
    return points.dropna().sort_values("x", kind="stable")


def residual_plot(study: Study) -> Plot | None:
    """Draw the residuals of every law of the pretrained runs, a panel each; None where no law was fitted."""
    every = [series(study, target, axis) for target in FINETUNED for axis in scaled_axes(study)]
    fitted = [(points, points.fit) for points in every if isinstance(points.fit, PowerLawFit)]
    if not fitted:
        return None
    with drawing.style():
        figure, panels = drawing.new_grid(len(fitted), PANEL_HEIGHT, "error against its law")
        for axes, (points, fit) in zip(panels, fitted, strict=True):
            _draw_residuals(axes, points, fit, palette(study))
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(float(value))))
    caption = (
        "Measured error over that of its law, minus 1. Dotted: one standard deviation of the residuals. "
        f"{bends(fitted)}"
    )
    return Plot("residuals", figure, caption, f"Residuals of the fitted laws. {_residual_alt(fitted)}")


def residuals(points: Series, fit: PowerLawFit) -> Array:
    """``log(error / law)`` of every point [n]; NaN where the error is zero."""
    error = points.points["error"].to_numpy(float)
    law = fit.predict(points.points["x"].to_numpy(float)).y
    logs: Array = np.log(np.where(error > 0, error, np.nan) / law)
    return logs


def curvature(series_of_points: Series) -> Slope | NoFit:
    """The coefficient of the square of log x in log error, beside a straight line: what a power law lacks."""
    points = checked(series_of_points.points["x"], series_of_points.points["error"], MIN_POINTS)
    if isinstance(points, NoFit):
        return points
    x, y = points
    return slope_given((x - x.mean()) ** 2, x, y)


def bends(fitted: Sequence[tuple[Series, PowerLawFit]]) -> str:
    """Which laws bend, by Student's test of their curvature: all panels together err in 5 % (Bonferroni)."""
    said, tests = [], []
    for points, fit in fitted:
        bend = curvature(points)
        if not isinstance(bend, NoFit):
            tests.append((points, bend, p_value(bend.interval, 0.0, fit.n - 3)))
    for points, bend, p in tests:
        law = f"{points.target.formula} against {points.axis.symbol}"
        shown = f"{law} bends" if p < (1 - CONFIDENCE) / len(tests) else f"of {law} no bend is shown"
        said.append(
            f"{shown} (coefficient of log² {points.axis.symbol} "
            f"{text.number(bend.value)}, {text.LEVEL} interval {text.interval(bend.interval)})"
        )
    if not said:
        return "Whether a law bends cannot be told from so few points."
    return f"{'; '.join(said)}. Chance calls a law of this figure bent in 5{text.SPACE}% at most."


def _draw_residuals(axes: Axes, points: Series, fit: PowerLawFit, looks: Palette) -> None:
    left = np.expm1(residuals(points, fit))
    groups = points.points["label"].map(looks.group_of).to_numpy()
    x = points.points["x"].to_numpy(float)
    for group in dict.fromkeys(groups):
        members = groups == group
        axes.plot(x[members], left[members], color=looks.colours[group], linestyle="none", marker="o", markersize=6)
    axes.axhline(0, color=QUIET, linewidth=1, zorder=0)
    for side in (-1, 1):
        axes.axhline(np.expm1(side * fit.residual_std), color=QUIET, linewidth=1, linestyle=":", zorder=0)
    form = captions.form(points.axis)
    most = 2 if form is text.power else 3  # of a narrow panel
    drawing.axis_around(axes, "x", x, form, most)
    axes.set_xlabel(f"{points.axis.name} {points.axis.symbol}", fontsize="small")
    axes.set_title(points.target.formula, fontsize="small", loc="left")


def _residual_alt(fitted: Sequence[tuple[Series, PowerLawFit]]) -> str:
    said = []
    for points, fit in fitted:
        left = np.expm1(residuals(points, fit))
        worst = int(np.nanargmax(np.abs(left)))
        said.append(
            f"{points.target.formula} against {points.axis.symbol}: n = {fit.n}, standard deviation "
            f"{_percent(float(np.expm1(fit.residual_std)))}, largest {_percent(float(left[worst]))} at "
            f"{points.points['label'].iloc[worst]}"
        )
    return f"{'; '.join(said)}."


def _percent(fraction: float) -> str:
    return f"{100 * fraction:+.3g}{text.SPACE}%".replace("-", text.MINUS) if fraction else f"0{text.SPACE}%"
