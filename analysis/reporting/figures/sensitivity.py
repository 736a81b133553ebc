"""The error against a numeric setting: the learning rate at each size, that of fine-tuning for each arm with what was
chosen, and the number of labelled images, pretrained and from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.few_labels import LABELS, STARTS, Arms, arms, worth
from analysis.findings.learning_rates import ARMS, are_numbers, at_edge, tries
from analysis.findings.series import (
    COST_KEYS,
    LABEL_KEYS,
    SIZE_KEYS,
    Series,
    Target,
    errors,
    finished,
    label_order,
    leading,
    size_order,
)
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import NoFit
from analysis.laws.law import Array
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import INK, QUIET, Palette, palette, readable
from analysis.reporting.figures.plots import LINES, LOOKS, Plot
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
MOST_SIZES = 5  # of two starts each


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
    error = errors(usable, target).reindex(rows.index)
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
    if not are_numbers(points["value"]):
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
        "Everything else on this page is of the chosen runs, by their validation images."
    )
    left = int((points["label"].isin(shown) & points["error"].notna()).sum()) - len(drawn)
    caption += f" Not drawn: {text.counted(left, 'run')} at null or zero, or with an error of zero." if left else ""
    caption += f" {len(shown)} of {len(labels)} labels are drawn." if len(shown) < len(labels) else ""
    edge = at_edge(points)
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


def few_labels_plot(study: Study, target: Target) -> Plot | None:
    """Draw both starts of each size on log scales; None for a study that does not vary the labels of ``target``."""
    pairs = arms(study, target)
    if not pairs:
        return None
    names = readable([pair.size for pair in pairs], MOST_SIZES)
    shown = [pair for pair in pairs if pair.size in names]
    colours = drawing.size_colours(size_order(study))
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel=f"{LABELS.name} {LABELS.symbol}", ylabel=f"{target.name} ({target.formula})")
        points = pd.concat([series.points for pair in shown for series in _both(pair)])
        points = points[(points["x"] > 0) & (points["error"] > 0)]
        if points.empty:
            drawing.mark_empty(axes)
        else:
            drawing.error_axis(axes, points["error"])
            drawing.axis_around(axes, "x", points["x"], text.count)
            for pair in shown:
                _draw(axes, pair, colours[pair.size])
            _legend(axes, {pair.size: colours[pair.size] for pair in shown} if len(shown) > 1 else {})
    caption = (
        f"{captions.capital(target.name)} against {LABELS.name}, log scales. Lines: fitted power laws. "
        f"{' '.join(_worth(pair, named=len(pairs) > 1) for pair in shown)}"
    )
    caption += f" {len(shown)} of {len(pairs)} sizes are drawn." if len(shown) < len(pairs) else ""
    return Plot(f"labels-{target.task}", figure, caption, _alt(target, shown))


def _both(pair: Arms) -> Sequence[Series]:
    return pair.pretrained, pair.scratch


def _draw(axes: Axes, pair: Arms, colour: Any) -> None:
    for series in _both(pair):
        points = series.points.loc[series.points["error"] > 0, ["x", "error"]].to_numpy(float)
        axes.plot(*points.T, color=colour, zorder=3, **LOOKS[series.init])
        if isinstance(series.fit, PowerLawFit):
            x = np.geomspace(*series.fit.x_range, 60)
            axes.plot(x, series.fit.predict(x).y, color=colour, linestyle=LINES[series.init], linewidth=1.4, zorder=1)
    _draw_worth(axes, pair, colour)


def _draw_worth(axes: Axes, pair: Arms, colour: Any) -> None:
    """A double arrow from one law to the other at the level where the factor is stated."""
    shift, near, far = worth(pair), pair.pretrained.fit, pair.scratch.fit
    if isinstance(shift, NoFit) or not (isinstance(near, PowerLawFit) and isinstance(far, PowerLawFit)):
        return
    ends = [float((fit.a / shift.level) ** (1 / fit.b)) for fit in (near, far)]
    arrow: dict[str, Any] = {"arrowstyle": "<->", "color": colour, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.4}
    axes.annotate("", (ends[1], shift.level), (ends[0], shift.level), arrowprops=arrow)
    middle, label = float(np.sqrt(ends[0] * ends[1])), f"{text.TIMES}{text.SPACE}{text.number(shift.factor)}"
    offset: dict[str, Any] = {
        "xytext": (0, 4),
        "textcoords": "offset points",
        "ha": "center",
        "fontsize": "small",
        "zorder": 5,
    }
    paper: dict[str, Any] = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}
    axes.annotate(label, (middle, shift.level), bbox=paper, **offset)


def _legend(axes: Axes, sizes: Mapping[str, Any]) -> None:
    for start in STARTS:
        look = {**LOOKS[start], "linestyle": LINES[start]}
        axes.plot([], [], color=QUIET, label=captions.NAMES[start], zorder=3, **look)
    for size, colour in sizes.items():
        axes.plot([], [], color=colour, linewidth=3, label=drawing.short(size))
    drawing.legend_above(axes)


def _worth(pair: Arms, *, named: bool) -> str:
    """The worth of pretraining at one size, as in the answers."""
    shift, whose = worth(pair), f"{pair.size}: " if named else ""
    if isinstance(shift, NoFit):
        return f"{whose}What pretraining is worth cannot be stated: {shift.reason}."
    return (
        f"{whose}Pretraining is worth {text.TIMES}{text.SPACE}{text.number(shift.factor)} the labels ({text.LEVEL} "
        f"interval {text.span(shift.interval.low, shift.interval.high)}) at an error of {text.percent(shift.level)}."
    )


def _alt(target: Target, shown: Sequence[Arms]) -> str:
    said = [
        f"{pair.size}. {captions.one_series(series, LABELS)}"
        for pair in shown
        for series in _both(pair)
        if len(series.points)
    ]
    return f"{captions.capital(target.name)} against {LABELS.name}. {' '.join(said)}"
