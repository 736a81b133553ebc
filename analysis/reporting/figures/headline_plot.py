"""The figure that a page leads with: its error against model size and compute, both starts, law and prediction."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.findings import text
from analysis.findings.comparison import comparison
from analysis.findings.headline import WORDS
from analysis.findings.preregistration import Registered, registered
from analysis.findings.series import (
    COMPUTE,
    PARAMETERS,
    PRETRAINED,
    SCRATCH,
    Axis,
    Series,
    Target,
    finished,
    known_on,
    of_start,
    scaled_axes,
    series,
)
from analysis.fit.power_law import PowerLawFit
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import INK, QUIET, Palette, palette, readable
from analysis.reporting.figures.plots import LOOKS, Plot, on_log_scales
from analysis.reporting.figures.sensitivity import few_labels_plot
from analysis.study.records import Study

SIDE_BY_SIDE, STACKED = (9.6, 4.3), (4.4, 7.6)  # inches, of two panels
ONE_PANEL = 0.56  # of the long side of two
DOTS_PER_INCH = 200
MOST_TICKS = {False: 5, True: 4}
FEWEST_PLACES = 2
COLOURS: Mapping[str, str] = {PRETRAINED: "#0072b2", SCRATCH: "#d55e00"}  # Okabe and Ito's blue and vermilion
OTHER_COLOUR = "#009e73"
LINES: Mapping[str, Any] = {PRETRAINED: "-", SCRATCH: (0, (5, 2, 1, 2))}
NEAR = 1.6  # the majority baseline is drawn where it is at most so many times the highest error
BESIDE = 0.045  # of the width of a panel: how far right of its run a prediction stands
SIZES_OF_A_LAW = 3


@dataclass(frozen=True)
class _Panel:
    """One axis with what is drawn along it."""

    axis: Axis
    drawn: Sequence[Series]
    expected: Sequence[Registered]
    chosen: bool
    """Whether other settings of the same places are left out."""


def leading_plot(study: Study, target: Target, *, stacked: bool = False) -> Plot | None:
    """The figure of what the study is about: the error against labels where these vary and too few sizes for a law."""
    sizes = series(study, target, PARAMETERS).points["x"].nunique()
    labels = None if sizes >= SIZES_OF_A_LAW else few_labels_plot(study, target)
    return labels or headline_plot(study, target, stacked=stacked)


def headline_plot(study: Study, target: Target, *, stacked: bool = False) -> Plot | None:
    """Draw the error against every axis that two places or more are known on; None without any.

    Panels stand side by side, or ``stacked`` for a narrow screen. Starts differ by colour, marker and line.
    """
    panels = [panel for axis in scaled_axes(study) if (panel := _panel(study, target, axis)) is not None]
    if not panels:
        return None
    majority = 1 - float(comparison(study, target).rows["majority"].mean()) if target.baseline else float("nan")
    with drawing.style():
        figure, every = _panels(len(panels), stacked=stacked)
        low, high = _heights(panels, majority)
        drawing.log_axis(every[0], "y", low, high, text.round_percent)
        for axes, panel in zip(every, panels, strict=True):
            _draw(axes, panel, majority, palette(study), MOST_TICKS[stacked])
            if stacked or axes is every[0]:
                axes.set_ylabel(f"{target.name} ({target.formula})")
        handles = {
            name: handle for axes in every for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        columns = 2 if stacked or len(panels) == 1 else 6
        figure.legend(
            handles.values(), handles, loc="outside upper center", ncols=columns, fontsize="small", frameon=False
        )
    return Plot("headline", figure, _caption(panels, target), _alt(panels, target))


def to_png(plot: Plot) -> bytes:
    """The figure as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"text.parse_math": False}):
        plot.figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _panel(study: Study, target: Target, axis: Axis) -> _Panel | None:
    every = [series(study, target, axis, start) for start in LOOKS if known_on(axis, start)]
    drawn = [entry for entry in map(on_log_scales, every) if len(entry.points)]
    main = [entry for entry in drawn if entry.init != SCRATCH]
    if not main or main[0].points["x"].nunique() < FEWEST_PLACES:
        return None
    expected = [entry for entry in registered(study) if entry.target is target and entry.axis is axis and entry.x > 0]
    known = [entry for entry in expected if entry.interval.low > 0 and np.isfinite(entry.interval.high)]
    runs = of_start(finished(study.of(target.task), target), main[0].init)
    return _Panel(axis, drawn, known, len(main[0].points) < len(runs.dropna(subset=[axis.column])))


def _panels(count: int, *, stacked: bool) -> tuple[Figure, list[Axes]]:
    width, height = STACKED if stacked else SIDE_BY_SIDE
    if count == 1:
        width, height = (width, height * ONE_PANEL) if stacked else (width * ONE_PANEL, height)
    columns, rows = (1, count) if stacked else (count, 1)
    return drawing.new_panels(columns, rows, height / rows, width)


def _heights(panels: Sequence[_Panel], majority: float) -> tuple[float, float]:
    """The ends of the axis of errors: of all points, and of predictions as far as these are of use."""
    errors = pd.concat([entry.points["error"] for panel in panels for entry in panel.drawn])
    low, high = float(errors.min()), float(errors.max())
    ends = [end for panel in panels for entry in panel.expected for end in (entry.interval.low, entry.interval.high)]
    low, high = (
        min([low, *(end for end in ends if end > low / 2)]),
        max([high, *(end for end in ends if end < high * 2)]),
    )
    if majority <= high * NEAR:
        high = max(high, majority)
    return low / drawing.MARGIN, min(high * 1.15, 1.15)


def _draw(axes: Axes, panel: _Panel, majority: float, looks: Palette, most: int) -> None:
    x = pd.concat([entry.points["x"] for entry in panel.drawn])
    left, right = float(x.min()), max([float(x.max()), *(entry.x for entry in panel.expected)])
    margin = max(drawing.MARGIN, (right / left) ** 0.08)
    drawing.log_axis(axes, "x", left / margin, right * margin, captions.form(panel.axis), most)
    axes.set_xlabel(f"{panel.axis.name} {panel.axis.symbol}")
    for entry in panel.drawn:
        _draw_start(axes, entry)
    _name(axes, panel, looks)
    for expected in panel.expected:
        _draw_expected(axes, expected, float(np.exp(BESIDE * np.log(right / left * margin**2))))
    if axes.get_ylim()[0] < majority < axes.get_ylim()[1]:
        axes.axhline(majority, color=QUIET, linestyle=":", linewidth=1.5, zorder=0, label="majority baseline")


def _draw_start(axes: Axes, arm: Series) -> None:
    """The points of one start, and its law with the band of one further run, as far as the points go."""
    colour = COLOURS.get(arm.init, OTHER_COLOUR)
    if isinstance(arm.fit, PowerLawFit):
        x = np.geomspace(*arm.fit.x_range, 60)
        law, (bottom, top) = arm.fit.predict(x), axes.get_ylim()
        axes.plot(x, law.y, color=colour, linestyle=LINES.get(arm.init, "--"), linewidth=1.8, zorder=2)
        if arm.init != SCRATCH:
            edges = np.clip([law.low, law.high], bottom / 2, top * 2)  # it may reach "anything"
            axes.fill_between(x, *edges, color=colour, alpha=0.14, linewidth=0, zorder=0)
    points = arm.points[["x", "error"]].to_numpy(float).T
    axes.plot(*points, color=colour, label=captions.NAMES[arm.init], zorder=3, **LOOKS[arm.init])


def _draw_expected(axes: Axes, expected: Registered, beside: float) -> None:
    """The interval right of its run, and a ring around what happened."""
    x = expected.x * beside
    axes.plot(
        [x, x],
        [expected.interval.low, expected.interval.high],
        color=INK,
        linewidth=1.6,
        marker="_",
        markersize=9,
        zorder=4,
    )
    axes.plot(
        x, expected.error, color=INK, marker="D", markersize=5, linestyle="none", zorder=4, label="registered before"
    )
    if expected.came is not None and expected.came > 0:
        ring: dict[str, Any] = {"marker": "o", "fillstyle": "none", "markersize": 13, "markeredgewidth": 1.4}
        axes.plot(expected.x, expected.came, color=INK, linestyle="none", zorder=4, label="what happened", **ring)


def _name(axes: Axes, panel: _Panel, looks: Palette) -> None:
    """Name the sizes under their lowest points, where every place on the axis is of one size and there is room."""
    points = pd.concat([entry.points for entry in panel.drawn])
    points = points.assign(group=points["label"].map(looks.group_of))
    if (points.groupby("x")["group"].nunique() > 1).any() or (points.groupby("group")["x"].nunique() > 1).any():
        return
    lowest = points.groupby("group", sort=False)[["x", "error"]].min().sort_values("x")
    named = lowest.loc[readable(list(map(str, lowest.index)))]
    places = {str(group): (x, y) for group, x, y in named.itertuples()}
    left = [name for name, (x, _) in places.items() if any(math.isclose(x, e.x, rel_tol=1e-3) for e in panel.expected)]
    drawing.name_below(axes, places, left)


def _caption(panels: Sequence[_Panel], target: Target) -> str:
    drawn = [entry for panel in panels for entry in panel.drawn]
    against = " and ".join(dict.fromkeys(WORDS[panel.axis][0] for panel in panels))
    parts = [f"{captions.capital(target.name)} against {against}, log scales; points are runs."]
    if any(panel.chosen for panel in panels):
        parts.append("Of several settings at one place the best stands for it.")
    if any(isinstance(entry.fit, PowerLawFit) for entry in drawn):
        parts.append(f"Lines: fitted power laws. Band: where one further pretrained run would lie ({text.LEVEL}).")
    compute = any(panel.axis is COMPUTE for panel in panels)
    if compute and any(entry.init == SCRATCH for entry in drawn):
        parts.append(captions.SCRATCH_PLACE)
    if any(panel.expected for panel in panels):
        parts.append(
            "Bar, drawn right of its run: what was registered before the largest runs started; ring: what happened."
        )
    return " ".join(parts)


def _alt(panels: Sequence[_Panel], target: Target) -> str:
    said = [captions.error_alt(panel.drawn, target, panel.axis) for panel in panels]
    for expected in {expected.label: expected for panel in panels for expected in panel.expected}.values():
        span = text.error_span(expected.interval.low, expected.interval.high)
        came = "not finished" if expected.came is None else f"it came out at {text.percent(expected.came)}"
        said.append(f"Registered for {expected.label}: {text.percent(expected.error)} ({span}); {came}.")
    return " ".join(said)
