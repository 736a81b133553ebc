"""One figure of the error of several studies, or of several objectives of one, against what they scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.findings.series import Axis, Series, Target
from analysis.fit.power_law import PowerLawFit
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import readable
from analysis.reporting.figures.plots import Plot, on_log_scales

LOOKS: Sequence[tuple[str, str, Any]] = (  # Okabe and Ito's hues, told apart without colour by marker and dashes
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "^", "-."),
    ("#8a5a80", "D", ":"),
    ("#000000", "v", (0, (5, 1, 1, 1, 1, 1))),
    ("#a6761d", "P", (0, (1, 3))),
)


def several_plot(target: Target, axis: Axis, every: Mapping[str, Series], one: str, several: str) -> Plot:
    """Draw the points and the law of each of ``every``, by its name; ``one`` of ``several`` says what each is of."""
    on_scales = {name: on_log_scales(points) for name, points in every.items()}
    entries = {name: points for name, points in on_scales.items() if not points.points.empty}
    shown = readable(list(entries), len(LOOKS))
    with drawing.style():
        figure, axes = drawing.new_figure()
        axes.set(xlabel=f"{axis.name} {axis.symbol}", ylabel=f"{target.name} ({target.formula})")
        if shown:
            _scales(axes, axis, [entries[name].points for name in shown])
            for name, look in zip(shown, LOOKS, strict=False):
                _draw(axes, name, entries[name], look)
            axes.legend(loc="best", fontsize="small")
        else:
            drawing.mark_empty(axes)
    caption = (
        f"{captions.capital(target.name)} against {axis.name}, log scales: pretrained runs and the power law of each "
        f"{one}, as far as its own points go."
    )
    if len(shown) < len(entries):
        caption += f" {len(shown)} of {len(entries)} {several} are drawn."
    alt = _alt(target, axis, {name: entries[name] for name in shown}, several)
    return Plot(f"{target.task}-{axis.symbol}", figure, caption, alt)


def _scales(axes: Axes, axis: Axis, drawn: Sequence[pd.DataFrame]) -> None:
    points = pd.concat(drawn)
    x, error = points["x"], points["error"]
    drawing.axis_around(axes, "x", x, captions.form(axis))
    drawing.error_axis(axes, error)


def _draw(axes: Axes, name: str, points: Series, look: tuple[str, str, Any]) -> None:
    colour, marker, line = look
    if isinstance(points.fit, PowerLawFit):
        x = np.geomspace(*points.fit.x_range, 60)
        axes.plot(x, points.fit.predict(x).y, color=colour, linestyle=line, linewidth=1.4, zorder=1)
    x, error = points.points["x"].to_numpy(float), points.points["error"].to_numpy(float)
    axes.plot(x, error, color=colour, linestyle="none", marker=marker, fillstyle="none", markersize=7, zorder=3)
    axes.plot([], [], color=colour, linestyle=line, marker=marker, fillstyle="none", label=drawing.short(name))


def _alt(target: Target, axis: Axis, entries: Mapping[str, Series], several: str) -> str:
    what = f"{captions.capital(target.name)} against {axis.name} of several {several}"
    if not entries:
        return f"{what}: empty, no finished run reports it."
    said = [f"{name}: {captions.one_series(points, axis)}" for name, points in entries.items()]
    return f"{what}. {' '.join(said)}"
