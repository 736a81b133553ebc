"""What the fitted laws leave over: a bend or an outlier shows here before it shows on log axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis.findings import text
from analysis.findings.series import CLASSIFICATION, SEGMENTATION, Series, scaled_axes, series
from analysis.fit.power_law import PowerLawFit
from analysis.fit.student import CONFIDENCE, MIN_POINTS, NoFit, Slope, checked, p_value, slope_given
from analysis.laws.law import Array
from analysis.reporting.figures import captions, drawing
from analysis.reporting.figures.drawing import QUIET
from analysis.reporting.figures.palette import Palette, palette
from analysis.reporting.figures.plots import MARGIN, Plot
from analysis.study.records import Study

PANEL_HEIGHT = 2.6


def residual_plot(study: Study) -> Plot | None:
    """Draw the residuals of every law of the pretrained runs, a panel each; None where no law was fitted."""
    every = [series(study, target, axis) for target in (CLASSIFICATION, SEGMENTATION) for axis in scaled_axes(study)]
    fitted = [(one, one.fit) for one in every if isinstance(one.fit, PowerLawFit)]
    if not fitted:
        return None
    columns = min(len(fitted), 2)
    rows = -(-len(fitted) // columns)
    with drawing.style():
        figure, panels = drawing.new_panels(columns, rows, PANEL_HEIGHT if rows > 1 else drawing.FIGURE_SIZE[1])
        for axes, (one, fit) in zip(panels, fitted, strict=False):
            _draw(axes, one, fit, palette(study))
        for spare in panels[len(fitted) :]:
            spare.set_axis_off()
        for left in panels[::columns]:
            left.set_ylabel("error against its law")
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(float(value))))
    caption = (
        "Measured error over that of its law, minus 1. Dotted: one standard deviation of the residuals. "
        f"{bends(fitted)}"
    )
    return Plot("residuals", figure, caption, f"Residuals of the fitted laws. {_alt(fitted)}")


def residuals(one: Series, fit: PowerLawFit) -> Array:
    """``log(error / law)`` of every point [n]; NaN where the error is zero."""
    error = one.points["error"].to_numpy(float)
    law = fit.predict(one.points["x"].to_numpy(float)).y
    found: Array = np.log(np.where(error > 0, error, np.nan) / law)
    return found


def curvature(one: Series) -> Slope | NoFit:
    """The coefficient of the square of log x in log error, beside a straight line: what a power law lacks."""
    points = checked(one.points["x"], one.points["error"], MIN_POINTS)
    if isinstance(points, NoFit):
        return points
    x, y = points
    return slope_given((x - x.mean()) ** 2, x, y)


def bends(fitted: Sequence[tuple[Series, PowerLawFit]]) -> str:
    """Which laws bend, by Student's test of their curvature: all panels together err in 5 % (Bonferroni)."""
    said, tests = [], []
    for one, fit in fitted:
        found = curvature(one)
        if not isinstance(found, NoFit):
            tests.append((one, found, p_value(found.interval, 0.0, fit.n - 3)))
    for one, found, p in tests:
        shown = "bends" if p < (1 - CONFIDENCE) / len(tests) else "shows no bend"
        said.append(
            f"{one.target.formula} against {one.axis.symbol} {shown} (coefficient of log² {one.axis.symbol} "
            f"{text.number(found.value)}, {text.LEVEL} interval {text.interval(found.interval)})"
        )
    if not said:
        return "Whether a law bends cannot be told from so few points."
    return f"{'; '.join(said)}. Chance calls a law of this figure bent in 5{text.SPACE}% at most."


def _draw(axes: Axes, one: Series, fit: PowerLawFit, looks: Palette) -> None:
    left = np.expm1(residuals(one, fit))
    groups = one.points["label"].map(looks.group_of).to_numpy()
    x = one.points["x"].to_numpy(float)
    for group in dict.fromkeys(groups):
        own = groups == group
        axes.plot(x[own], left[own], color=looks.colours[group], linestyle="none", marker="o", markersize=6)
    axes.axhline(0, color=QUIET, linewidth=1, zorder=0)
    for side in (-1, 1):
        axes.axhline(np.expm1(side * fit.residual_std), color=QUIET, linewidth=1, linestyle=":", zorder=0)
    form = captions.form(one.axis)
    most = 2 if form is text.power else 3  # of a narrow panel
    drawing.log_axis(axes, "x", float(x.min()) / MARGIN, float(x.max()) * MARGIN, form, most)
    axes.set_xlabel(f"{one.axis.name} {one.axis.symbol}", fontsize="small")
    axes.set_title(one.target.formula, fontsize="small", loc="left")


def _alt(fitted: Sequence[tuple[Series, PowerLawFit]]) -> str:
    said = []
    for one, fit in fitted:
        left = np.expm1(residuals(one, fit))
        worst = int(np.nanargmax(np.abs(left)))
        said.append(
            f"{one.target.formula} against {one.axis.symbol}: n = {fit.n}, standard deviation "
            f"{_percent(float(np.expm1(fit.residual_std)))}, largest {_percent(float(left[worst]))} at "
            f"{one.points['label'].iloc[worst]}"
        )
    return f"{'; '.join(said)}."


def _percent(fraction: float) -> str:
    return f"{100 * fraction:+.3g}{text.SPACE}%".replace("-", text.MINUS) if fraction else f"0{text.SPACE}%"
