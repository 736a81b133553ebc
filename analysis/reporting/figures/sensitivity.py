"""The error against a numeric setting such as the learning rate: at each size, and of fine-tuning for each arm with
what was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.learning_rates import ARMS, at_edge, tries
from analysis.findings.series import COST_KEYS, LABEL_KEYS, SIZE_KEYS, Target, finished, label_order, leading
from analysis.laws.law import Array
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import INK, QUIET, Palette, palette, readable
from analysis.reporting.figures.plots import Plot
from analysis.study.columns import LARGEST, SMALLEST
from analysis.study.records import FINISHED, Study
from nepa_scale.config.registry import spec

FEWEST_VALUES = 3
MOST_LABELS = 5  # of two arms each
ARM_LOOKS: dict[str, dict[str, Any]] = {
    "pretrained": {"marker": "o", "fillstyle": "full", "linestyle": "-"},
    "other weights": {"marker": "D", "fillstyle": "full", "linestyle": "--"},
    "from scratch": {"marker": "s", "fillstyle": "none", "linestyle": "-."},
}


def settings(study: Study) -> list[str]:
    """The varied settings that are positive numbers of three values or more: no size, cost, labels or seed."""
    keys = []
    for key in study.axes:
        values = study.table[f"config.{key}"].dropna()
        numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        other = key in SIZE_KEYS | COST_KEYS | LABEL_KEYS or key.rpartition(".")[2] == "seed"
        if numeric and not other and values.nunique() >= FEWEST_VALUES and values.between(SMALLEST, LARGEST).all():
            keys.append(key)
    return keys


def measured(study: Study, target: Target, key: str) -> pd.DataFrame:
    """[group, x, error] of every run that is not from scratch, error NaN for those that ended without a score."""
    looks = palette(study)
    rows = leading(study.of(target.task))
    rows = rows[rows[f"config.{key}"].notna()]
    usable = finished(rows, target)
    error = (1 - usable[f"metrics.{target.metric}"].astype("float64")).reindex(rows.index)
    x = rows[f"config.{key}"].astype("float64")
    points = pd.DataFrame({"group": rows["label"].map(looks.group_of), "x": x, "error": error})
    return points[(rows["state"].isin([FINISHED, "failed"])) & ~(points["error"] <= 0)]


def sensitivity_plot(study: Study, target: Target, key: str) -> Plot | None:
    """Draw the error against ``key``, one line per size; None where no size has three values that ended well."""
    points = measured(study, target, key)
    good = points.dropna(subset=["error"])
    counts = good.groupby("group")["x"].nunique()
    looks = palette(study)
    able = [group for group in looks.groups if counts.get(group, 0) >= FEWEST_VALUES]
    if not able:
        return None
    shown = readable(able)
    means = {g: good[good["group"] == g].groupby("x")["error"].mean() for g in shown}
    bad = points[points["error"].isna()]
    name = key.rpartition(".")[2]
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel=key, ylabel=f"{target.name} ({target.formula})")
        _draw_sensitivity(axes, good[good["group"].isin(shown)], means, bad, looks)
    caption = (
        f"{captions.capital(target.name)} against {key}, log scales, n = {text.counted(len(good), 'run')}: mean of the "
        "seeds by size, ringed where it is lowest; the best value is known to the spacing of the grid at most."
    )
    caption += f" Crosses on top: {text.counted(len(bad), 'run')} that failed or diverged." if len(bad) else ""
    caption += f" {len(shown)} of {len(able)} sizes are drawn." if len(shown) < len(able) else ""
    at_edge = [g for g, m in means.items() if m.idxmin() in (m.index.min(), m.index.max())]
    caption += f" At the edge of the grid: {', '.join(at_edge)}." if at_edge else ""
    best = "; ".join(f"{g} {text.percent(float(m.min()))} at {m.idxmin():g}" for g, m in means.items())
    alt = f"{captions.capital(target.name)} against {key} from {points['x'].min():g} to {points['x'].max():g}. "
    return Plot(f"sensitivity-{target.task}-{name}", figure, caption, f"{alt}Lowest: {best}.")


def _draw_sensitivity(
    axes: Axes, good: pd.DataFrame, means: Mapping[str, pd.Series[float]], bad: pd.DataFrame, looks: Palette
) -> None:
    every = pd.concat([good["x"], bad["x"]])
    drawing.axis_around(axes, "x", every, lambda value: f"{value:g}", 5)
    drawing.error_axis(axes, good["error"], margin=1.1)
    for group, mean in means.items():
        colour = looks.colours[group]
        group_points = good[good["group"] == group]
        x, y = mean.index.to_numpy(float), mean.to_numpy(float)
        axes.plot(x, y, color=colour, dashes=looks.dashes[group] or (1, 0), linewidth=1.4, label=drawing.short(group))
        axes.plot(
            group_points["x"].to_numpy(float), group_points["error"].to_numpy(float), ".", color=colour, markersize=6
        )
        lowest = int(np.argmin(y))
        axes.plot(x[lowest], y[lowest], "o", color=INK, fillstyle="none", markersize=10)
    if len(bad):
        top = np.full(len(bad), 0.97)
        axes.plot(bad["x"].to_numpy(float), top, "x", color=QUIET, transform=axes.get_xaxis_transform(), clip_on=False)
    axes.legend(loc="best", fontsize="small")


def tuned_plot(study: Study, key: str) -> Plot | None:
    """Draw the error of every arm against ``key``, log scales; None where it has no two positive numbers to compare."""
    points = tries(study, key)
    if not pd.api.types.is_numeric_dtype(points["value"]) or pd.api.types.is_bool_dtype(points["value"]):
        return None
    good = points[points["value"].between(SMALLEST, LARGEST) & (points["error"] > 0)]
    if good["value"].nunique() < 2:
        return None
    labels = [label for label in label_order(study) if label in set(good["label"])]
    shown = readable(labels, MOST_LABELS)
    drawn, looks, task = good[good["label"].isin(shown)], palette(study), key.split(".", maxsplit=1)[0]
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel=key, ylabel=f"error on tuning images (1 {text.MINUS} {spec(task).headline.score})")
        _draw_tuned(axes, drawn, shown, looks)
    caption = (
        f"Error on tuning images, which no run trains on, against {key}, log scales, n = "
        f"{text.counted(len(drawn), 'run')}: lines through the mean of the seeds, ringed what was chosen for each arm. "
        "Everything else on this page is of the ringed runs, by their validation images."
    )
    caption += f" {len(shown)} of {len(labels)} labels are drawn." if len(shown) < len(labels) else ""
    edge = at_edge(drawn)
    named = dict.fromkeys(f"{label} {arm}" for label, arm in zip(edge["label"], edge["arm"], strict=True))
    caption += f" At the edge of the values tried: {', '.join(named)}." if named else ""
    return Plot(f"tuned-{key.replace('.', '-')}", figure, caption, _tuned_alt(drawn, key))


def _draw_tuned(axes: Axes, points: pd.DataFrame, shown: list[str], looks: Palette) -> None:
    x, y = points["value"], points["error"]
    drawing.axis_around(axes, "x", x, lambda value: f"{value:g}", 5)
    drawing.error_axis(axes, y, margin=1.1)
    for (label, arm), arm_points in points.groupby(["label", "arm"], sort=False):
        colour, look = looks.colour(str(label)), ARM_LOOKS[str(arm)]
        mean = arm_points.groupby("value")["error"].mean()
        line = {"linestyle": look["linestyle"], "linewidth": 1.4}
        axes.plot(mean.index.to_numpy(float), mean.to_numpy(float), color=colour, **line)
        dots = {**look, "linestyle": "none", "markersize": 5}
        axes.plot(arm_points["value"].to_numpy(float), arm_points["error"].to_numpy(float), color=colour, **dots)
        best = arm_points[arm_points["chosen"]]
        ring: dict[str, Any] = {"color": INK, "fillstyle": "none", "markersize": 11}
        axes.plot(best["value"].to_numpy(float), best["error"].to_numpy(float), "o", **ring)
    for arm in (name for name in ARMS.values() if (points["arm"] == name).any()):
        axes.plot([], [], color=QUIET, label=arm, markersize=5, **ARM_LOOKS[arm])
    for label in shown if len(shown) > 1 else []:
        axes.plot([], [], color=looks.colour(label), linewidth=3, label=drawing.short(label))
    drawing.legend_above(axes)


def _tuned_alt(points: pd.DataFrame, key: str) -> str:
    said = [
        f"{label} {arm}: lowest {text.percent(float(tries_of_arm['error'].min()))} at "
        f"{' and '.join(f'{value:g}' for value in _chosen_values(tries_of_arm))}"
        for (label, arm), tries_of_arm in points.groupby(["label", "arm"], sort=False)
        if tries_of_arm["chosen"].any()
    ]
    span = f"{points['value'].min():g} to {points['value'].max():g}"
    return f"{captions.capital('error on tuning images')} against {key} from {span}. {'; '.join(said)}."


def _chosen_values(tries_of_arm: pd.DataFrame) -> Array:
    """The distinct values that were chosen, lowest first."""
    return np.unique(tries_of_arm.loc[tries_of_arm["chosen"], "value"].to_numpy(float))
