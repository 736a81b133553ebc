"""A fit as a picture: along its variable or, with several, what it says against what was measured."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.fit.estimate import Fit

BEYOND, STEPS = 3.0, 100
"""How many times beyond the largest x the law is drawn, and at how many places."""


def draw(fit: Fit, columns: tuple[str, ...], y: str, axes: Axes | None = None) -> Axes:
    """Draw ``fit`` on ``axes``, or on axes of a figure of their own; named are its ``columns`` and ``y``."""
    own = Figure(layout="constrained").add_subplot() if axes is None else axes
    if len(columns) == 1:
        _along(own, fit)
        own.set(xlabel=columns[0], ylabel=y)
    else:
        said = fit.value(fit.loss.columns)
        ends = [min(said.min(), fit.loss.y.min()), max(said.max(), fit.loss.y.max())]
        own.plot(ends, ends, color="0.6", linewidth=1)
        own.scatter(said, fit.loss.y, s=16)
        own.set(xlabel=f"{y} = {fit.law.formula}", ylabel=f"{y}, measured", xscale="log", yscale="log")
    return own


def _along(axes: Axes, fit: Fit) -> None:
    x = fit.loss.columns[0]
    logs = fit.law.any_sign is False
    places = np.geomspace(x.min(), BEYOND * x.max(), STEPS) if logs else np.linspace(x.min(), x.max(), STEPS)
    band = fit.predict(places[None])
    axes.fill_between(places, band.low, band.high, alpha=0.2, linewidth=0)
    axes.plot(places, band.y, label=fit.law.formula)
    axes.scatter(x, fit.loss.y, s=16)
    if logs:
        axes.set(xscale="log", yscale="log")
    axes.legend()
