"""The error against the number of labelled images, pretrained and from scratch, with what lies between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.findings import text
from analysis.findings.few_labels import LABELS, STARTS, Arms, arms, worth
from analysis.findings.series import PRETRAINED, Series, Target, size_order
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import NoFit
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import QUIET, readable
from analysis.reporting.figures.plots import Plot
from analysis.study.records import Study

MOST_SIZES = 5  # of two starts each


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
        points = series.points[series.points["error"] > 0]
        axes.plot(points["x"].to_numpy(float), points["error"].to_numpy(float), color=colour, **_look(series.init))
        if isinstance(series.fit, PowerLawFit):
            x = np.geomspace(*series.fit.x_range, 60)
            axes.plot(x, series.fit.predict(x).y, color=colour, linestyle=_line(series.init), linewidth=1.4, zorder=1)
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


def _look(start: str) -> dict[str, Any]:
    marker, fill = ("o", "full") if start == PRETRAINED else ("s", "none")
    return {"linestyle": "none", "marker": marker, "fillstyle": fill, "markersize": 7, "zorder": 3}


def _line(start: str) -> str:
    return "-" if start == PRETRAINED else "-."


def _legend(axes: Axes, sizes: Mapping[str, Any]) -> None:
    for start in STARTS:
        axes.plot([], [], color=QUIET, label=captions.NAMES[start], **(_look(start) | {"linestyle": _line(start)}))
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
