"""Laws fitted to a frame, as Python objects: they print as the commands do, and can be queried, tabulated and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.chain import TwoStep, TwoStepHeldOut, two_step_as_json
from analysis.fit.__main__ import Answer, answer_as_json, show
from analysis.fit.display import as_text
from analysis.fit.estimate import Fit
from analysis.fit.profile import Profile, profile
from analysis.fit.student import Interval, NoFit, Prediction
from analysis.laws.law import Array
from analysis.laws.restrictions import restriction_of
from nepa_scale.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.chain.__main__ import ChainSettings
BEYOND, STEPS = 3.0, 100
"""How many times beyond the largest x the law is drawn, and at how many places."""


@dataclass(frozen=True, repr=False)
class Fitted:
    """A law fitted to columns of a frame; ``answer`` also holds everything else that was requested."""

    answer: Answer
    columns: tuple[str, ...]
    y: str

    def __repr__(self) -> str:
        return as_text(lambda console: show(console, self.answer))

    @property
    def fit(self) -> Fit:
        """The fit itself: internal coordinates, draws, residuals."""
        return self.answer.fit

    @property
    def parameters(self) -> dict[str, float]:
        """By name."""
        return self.fit.parameters

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """By name; None where there is none."""
        return self.fit.intervals

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the fit's diagnostics."""
        return self.fit.diagnostics.warnings

    def predict(self, *places: Any, **named: Any) -> pd.DataFrame:
        """Predict one further row at each place: columns ``y``, ``low`` and ``high``.

        Places are a frame that has the columns of the fit, or values of them, in order or by name. Raises
        ``UserError``.
        """
        columns = _places(self.columns, places, named)
        return _predicted(self.columns, columns, {"": self.fit.predict(columns)})

    def profile(self, name: str) -> Profile | NoFit:
        """The profile interval of a parameter. Raises ``UserError`` for one that is not searched for."""
        if name not in self.fit.law.names:
            raise UserError(f"profile {name!r}: {str(restriction_of(self.fit.law, name)) or 'no such parameter'}")
        return profile(self.fit, name)

    def to_frame(self) -> pd.DataFrame:
        """A row for each parameter: its value, the ends of its interval, and whether it was fixed or tied."""
        return _parameters(self.fit)

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return answer_as_json(self.answer)

    def plot(self, axes: Axes | None = None) -> Axes:
        """The points, the law and where further points may lie, on ``axes`` or axes of their own."""

        return draw(self.fit, self.columns, self.y, axes)


@dataclass(frozen=True, repr=False)
class FittedTwoStep:
    """Both steps and the direct law; ``held`` has the errors on held-out rows."""

    chain: TwoStep
    held: TwoStepHeldOut | None
    at: Array | None
    given: ChainSettings
    columns: tuple[str, ...]

    def __repr__(self) -> str:
        from analysis.chain.__main__ import show as show_chain

        return as_text(lambda console: show_chain(console, self.given, self.chain, self.held, self.at))

    @property
    def parameters(self) -> dict[str, dict[str, float]]:
        """Of each law by name."""
        return {name: fit.parameters for name, fit in self._fits.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of the diagnostics of both steps."""
        return self.chain.warnings

    @property
    def _fits(self) -> dict[str, Fit]:
        return {"first": self.chain.first, "second": self.chain.second, "direct": self.chain.direct}

    def predict(self, *places: Any, **named: Any) -> pd.DataFrame:
        """Predict one further run: ``y``, ``low``, ``high`` in two steps, and with ``direct_`` by the direct law."""
        at = _places(self.columns, places, named)
        bands = {"": self.chain.predict(at), "first_": self.chain.first.predict(at)}
        return _predicted(self.columns, at, bands | {"direct_": self.chain.direct.predict(at)})

    def to_frame(self) -> pd.DataFrame:
        """A row for each parameter of each law."""
        return pd.concat({name: _parameters(fit) for name, fit in self._fits.items()}, names=["law"])

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return two_step_as_json(self.chain, self.held, self.at)

    def plot(self, axes: Axes | None = None) -> Axes:
        """The second step: y against the loss."""

        return draw(self.chain.second, (self.given.through,), self.given.y, axes)


def _places(columns: tuple[str, ...], places: tuple[Any, ...], named: dict[str, Any]) -> Array:
    """Places [V, m] from a frame, or from values in order or by name. Raises ``UserError``."""
    wanted = f"give {', '.join(columns)}, or a frame with these columns"
    if len(places) == 1 and isinstance(places[0], pd.DataFrame) and not named:
        missing = [name for name in columns if name not in places[0]]
        if missing:
            raise UserError(f"predict: no column '{missing[0]}'; {wanted}")
        values = [places[0][name] for name in columns]
    elif named and not places and set(named) == set(columns):
        values = [named[name] for name in columns]
    elif len(places) == len(columns) and not named:
        values = list(places)
    else:
        raise UserError(f"predict: {wanted}")
    try:
        at = np.array(np.broadcast_arrays(*[np.atleast_1d(np.asarray(column, dtype=float)) for column in values]))
    except ValueError as problem:
        raise UserError(f"predict: {problem}; {wanted}") from None
    if (at <= 0).any():
        raise UserError(f"predict: a place that is not above 0; {wanted}")
    return at


def _predicted(columns: tuple[str, ...], at: Array, bands: dict[str, Prediction]) -> pd.DataFrame:
    frame = pd.DataFrame(dict(zip(columns, at, strict=True)))
    for prefix, band in bands.items():
        frame = frame.assign(**{f"{prefix}y": band.y, f"{prefix}low": band.low, f"{prefix}high": band.high})
    return frame


def _parameters(fit: Fit) -> pd.DataFrame:
    rows = {}
    for name, value in fit.parameters.items():
        interval = fit.intervals[name]
        low, high = (np.nan, np.nan) if interval is None else (interval.low, interval.high)
        rows[name] = {"value": value, "low": low, "high": high, "note": str(restriction_of(fit.law, name))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")


def draw(fit: Fit, columns: tuple[str, ...], y: str, axes: Axes | None = None) -> Axes:
    """Draw ``fit`` on ``axes``, or on axes of a figure of their own; named are its ``columns`` and ``y``."""
    panel = panel_of(axes)
    if len(columns) == 1:
        _along(panel, fit)
        panel.set(xlabel=columns[0], ylabel=y)
    else:
        said = fit.value(fit.loss.columns)
        ends = [min(said.min(), fit.loss.y.min()), max(said.max(), fit.loss.y.max())]
        panel.plot(ends, ends, color="0.6", linewidth=1)
        panel.scatter(said, fit.loss.y, s=16)
        panel.set(xlabel=f"{y} = {fit.law.formula}", ylabel=f"{y}, measured", xscale="log", yscale="log")
    return panel


def panel_of(axes: Axes | None) -> Axes:
    """``axes``, or axes of a figure of their own."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained").add_subplot() if axes is None else axes


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
