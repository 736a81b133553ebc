"""Best sizes, best settings and forecasts as Python objects: they print as the commands do, and can be tabulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.api.results import panel_of
from analysis.fit.display import as_text
from analysis.fit.student import NoFit
from analysis.forecast.estimate import Forecast
from analysis.forecast.estimate import as_json as forecasts_as_json
from analysis.isoflop.allocation import Ahead, Allocation, Optimum
from analysis.laws.law import Array
from analysis.optimum.sweep import Common, Law, Sweep
from analysis.optimum.sweep import as_json as sweep_as_json
from nepa_scale.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.optimum.__main__ import OptimumSettings


@dataclass(frozen=True, repr=False)
class Minima:
    """The best size at each budget, the ``law`` through these, and its ``bias`` on this grid."""

    optima: tuple[Optimum, ...]
    law: Allocation | NoFit
    bias: float | NoFit
    left_out: int
    ahead: tuple[Ahead, ...] = ()
    """N* at the requested budgets."""
    held: tuple[Ahead, ...] | None = None
    """N* of held-out budgets beside those measured."""

    def __repr__(self) -> str:
        from analysis.isoflop.__main__ import show as show_minima

        return as_text(
            lambda console: show_minima(console, self.optima, self.law, self.bias, self.left_out, self.ahead, self.held)
        )

    def to_frame(self) -> pd.DataFrame:
        """A row for each budget: the best size ``n`` with ``low`` and ``high``, or the ``reason`` why there is none."""
        return pd.DataFrame(
            {
                "budget": optimum.budget,
                "n": np.nan if optimum.log_n is None else float(np.exp(optimum.log_n)),
                "low": np.nan if optimum.interval is None else optimum.interval.low,
                "high": np.nan if optimum.interval is None else optimum.interval.high,
                "reason": optimum.reason,
            }
            for optimum in self.optima
        )

    def predict(self, budget: Any) -> Array:
        """N* at budgets. Raises ``UserError`` where there is no law."""
        if isinstance(self.law, NoFit):
            raise UserError(f"no law: {self.law.reason}")
        return np.asarray(self.law.coefficient * np.asarray(budget, dtype=float) ** self.law.exponent)


@dataclass(frozen=True, repr=False)
class Continued:
    """A curve continued beyond its last point: ``forecast`` holds places, values, intervals and how it was tested."""

    forecast: Forecast
    x: str
    y: str

    def __repr__(self) -> str:
        from analysis.forecast.__main__ import show as show_forecasts

        return as_text(lambda console: show_forecasts(console, {"": self.forecast}, None))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before believing it."""
        return self.forecast.warnings

    def to_frame(self) -> pd.DataFrame:
        """A row for each place: ``x`` and ``y`` by their names, ``low`` and ``high``."""
        answer = self.forecast
        return pd.DataFrame({self.x: answer.at, self.y: answer.y, "low": answer.low, "high": answer.high})

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints of it."""
        return forecasts_as_json({"": self.forecast})[0]

    def plot(self, axes: Axes | None = None) -> Axes:
        """The forecast with its intervals, on ``axes`` or axes of their own."""
        panel, answer = panel_of(axes), self.forecast
        panel.errorbar(answer.at, answer.y, [answer.y - answer.low, answer.high - answer.y], fmt="o", capsize=3)
        panel.set(xlabel=self.x, ylabel=f"{self.y}, forecast", xscale="log", yscale="log")
        return panel


@dataclass(frozen=True, repr=False)
class Optima:
    """The best value of a setting at each size, one value for all, and the law through them."""

    given: OptimumSettings
    sweep: Sweep
    common: Common | NoFit
    """One value for all sizes."""
    law: Law | NoFit
    left_out: int

    def __repr__(self) -> str:
        from analysis.optimum.__main__ import show as show_optima

        return as_text(
            lambda console: show_optima(console, self.given, self.sweep, self.common, self.law, self.left_out)
        )

    def to_frame(self) -> pd.DataFrame:
        """A row for each size: the ``best`` value with ``low`` and ``high``, its ``edge``, the ``reason`` of gaps."""
        return pd.DataFrame(
            {
                "size": curve.name,
                "best": np.nan if curve.best is None else curve.best,
                "low": np.nan if curve.interval is None else curve.interval.low,
                "high": np.nan if curve.interval is None else curve.interval.high,
                "edge": curve.edge,
                "reason": curve.reason,
            }
            for curve in self.sweep.curves
        )

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return sweep_as_json(self.sweep, self.common, self.law, self.left_out)
