"""The error on tuning images against a setting of fine-tuning, pretrained and from scratch, with what was chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.learning_rates import ARMS, at_edge, tries
from analysis.findings.series import label_order
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import INK, QUIET
from analysis.reporting.figures.palette import Palette, palette, readable
from analysis.reporting.figures.plots import MARGIN, Plot
from analysis.study.columns import LARGEST, SMALLEST
from analysis.study.records import Study

MOST_LABELS = 5  # of two arms each
LOOKS: dict[str, dict[str, Any]] = {
    "pretrained": {"marker": "o", "fillstyle": "full", "linestyle": "-"},
    "other weights": {"marker": "D", "fillstyle": "full", "linestyle": "--"},
    "from scratch": {"marker": "s", "fillstyle": "none", "linestyle": "-."},
}


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
    score = {"classify": "top-1", "segment": "mIoU"}[task]
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel=key, ylabel=f"error on tuning images (1 {text.MINUS} {score})")
        _draw(axes, drawn, shown, looks)
    caption = (
        f"Error on tuning images, which no run trains on, against {key}, log scales, n = "
        f"{text.counted(len(drawn), 'run')}: lines through the mean of the seeds, ringed what was chosen for each arm. "
        "Everything else on this page is of the ringed runs, by their validation images."
    )
    caption += f" {len(shown)} of {len(labels)} labels are drawn." if len(shown) < len(labels) else ""
    edge = at_edge(drawn)
    named = dict.fromkeys(f"{label} {arm}" for label, arm in zip(edge["label"], edge["arm"], strict=True))
    caption += f" At the edge of the values tried: {', '.join(named)}." if named else ""
    return Plot(f"tuned-{key.replace('.', '-')}", figure, caption, _alt(drawn, key))


def _draw(axes: Axes, points: pd.DataFrame, shown: list[str], looks: Palette) -> None:
    x, y = points["value"], points["error"]
    drawing.log_axis(axes, "x", float(x.min()) / MARGIN, float(x.max()) * MARGIN, lambda value: f"{value:g}", 5)
    drawing.log_axis(axes, "y", float(y.min()) / 1.1, min(float(y.max()) * 1.1, 1.15), text.round_percent)
    for (label, arm), own in points.groupby(["label", "arm"], sort=False):
        colour, look = looks.colour(str(label)), LOOKS[str(arm)]
        mean = own.groupby("value")["error"].mean()
        line = {"linestyle": look["linestyle"], "linewidth": 1.4}
        axes.plot(mean.index.to_numpy(float), mean.to_numpy(float), color=colour, **line)
        dots = {**look, "linestyle": "none", "markersize": 5}
        axes.plot(own["value"].to_numpy(float), own["error"].to_numpy(float), color=colour, **dots)
        best = own[own["chosen"]]
        ring: dict[str, Any] = {"color": INK, "fillstyle": "none", "markersize": 11}
        axes.plot(best["value"].to_numpy(float), best["error"].to_numpy(float), "o", **ring)
    for arm in (name for name in ARMS.values() if (points["arm"] == name).any()):
        axes.plot([], [], color=QUIET, label=arm, markersize=5, **LOOKS[arm])
    for label in shown if len(shown) > 1 else []:
        axes.plot([], [], color=looks.colour(label), linewidth=3, label=drawing.short(label))
    drawing.legend_above(axes)


def _alt(points: pd.DataFrame, key: str) -> str:
    said = [
        f"{label} {arm}: lowest {text.percent(float(own['error'].min()))} at "
        f"{' and '.join(f'{value:g}' for value in np.unique(own.loc[own['chosen'], 'value'].to_numpy(float)))}"
        for (label, arm), own in points.groupby(["label", "arm"], sort=False)
        if own["chosen"].any()
    ]
    span = f"{points['value'].min():g} to {points['value'].max():g}"
    return f"{captions.capital('error on tuning images')} against {key} from {span}. {'; '.join(said)}."
