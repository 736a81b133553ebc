"""Fits from Python: what the commands answer, for a data frame, with results that print as the commands do.

Best sizes, best settings and forecasts are objects of this file, fitted laws those of ``results.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.api.results import Fitted, FittedTwoStep, panel_of
from analysis.chain import __main__ as chains
from analysis.fit import __main__ as fits
from analysis.fit import arguments
from analysis.fit.display import as_text
from analysis.fit.multiplier import Comparison, Recipe
from analysis.fit.multiplier import compare as compare_recipes
from analysis.fit.student import NoFit
from analysis.fit.table import Table, read_table, table_of
from analysis.forecast import Forecast
from analysis.forecast import __main__ as forecasts
from analysis.forecast import as_json as forecasts_as_json
from analysis.isoflop import Ahead, Allocation, Optimum
from analysis.isoflop import __main__ as isoflops
from analysis.laws.law import Array
from analysis.optimum import Common, Law, Sweep
from analysis.optimum import __main__ as optima
from analysis.optimum import as_json as sweep_as_json
from nepa_scale.utils.arguments import parse
from nepa_scale.utils.cli import to_text
from nepa_scale.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.optimum.__main__ import OptimumSettings

Data = pd.DataFrame | Mapping[str, Any] | Path | str
"""A data frame, columns by name, or a CSV or parquet file."""
Several = str | Sequence[str]
Result = TypeVar("Result")
Settings = TypeVar("Settings", bound=arguments.TableSettings)
Grouped = TypeVar("Grouped", bound=arguments.GroupedSettings)


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


def fit(
    data: Data,
    law: str,
    x: str,
    y: str,
    *,
    fix: Mapping[str, float] | Several = (),
    tie: Several = (),
    bound: Several = (),
    where: Several = (),
    holdout: str | None = None,
    by: str | None = None,
    **more: Any,
) -> Any:
    """Fit ``law`` to the columns ``x`` and ``y`` of ``data``: a ``Fitted``, or a ``NoFit`` that says why not.

    ``more`` are the other arguments of ``python -m analysis.fit``: ``d``, ``m`` and ``unique`` name further columns,
    ``weights`` and ``cluster`` too; ``huber``, ``residual``, ``bootstrap``, ``confidence`` and ``seed`` say how to fit;
    ``profile`` and ``budget`` what else to tell. ``fix`` may be a dictionary. With ``by`` there is a dictionary of
    answers. Raises ``UserError`` for a word, a column, a number or a parameter that is wrong.
    """
    asked = {"law": law, "x": x, "y": y, "fix": fix, "tie": tie, "bound": bound, "holdout": holdout, **more}
    return _answers(
        data, fits.FitSettings, asked | {"where": where, "by": by},
        lambda given, table: Fitted(fits.answer(given, table), _columns(given), given.y),
    )  # fmt: skip


def chain(data: Data, x: str, through: str, y: str, **more: Any) -> Any:
    """Predict ``y`` in two steps through the column ``through``: a ``FittedTwoStep``, or a ``NoFit`` with the reason.

    ``more`` are the other arguments of ``python -m analysis.chain``, such as ``first``, ``second``, ``direct``,
    ``holdout`` and ``by``. Raises ``UserError``.
    """

    def answer(given: chains.ChainSettings, table: Table) -> FittedTwoStep:
        return FittedTwoStep(*chains.answer(given, chains.laws(given), table), given, _columns(given))

    return _answers(data, chains.ChainSettings, {"x": x, "through": through, "y": y, **more}, answer)


def isoflop(data: Data, c: str, n: str, y: str, **more: Any) -> Any:
    """The best size of each budget, as ``python -m analysis.isoflop``: ``Minima``, whose law may be a ``NoFit``.

    ``more`` are ``minimum``, ``where``, ``holdout``, ``at`` and ``by``. Raises ``UserError``.
    """
    return _answers(
        data, isoflops.IsoflopSettings, {"c": c, "n": n, "y": y, **more},
        lambda given, table: Minima(*isoflops.answer(given, table)),
    )  # fmt: skip


def forecast(data: Data, x: str, y: str, at: float | Sequence[float] | None = None, **more: Any) -> Any:
    """Continue the curve ``y`` > 0 along ``x`` > 0 to the places ``at``: a ``Continued``, or a ``NoFit`` with why.

    ``more`` are the other arguments of ``python -m analysis.forecast``: ``lr`` and ``planned``, the rate so far
    and to come, with which ``at`` may be left out; ``frontier``, ``confidence`` and ``where``. With ``by`` there is a
    dictionary of answers, one for each curve. Raises ``UserError``.
    """
    places = [] if at is None else [float(place) for place in np.atleast_1d(at)]
    given = _given(forecasts.ForecastSettings, {"x": x, "y": y, "at": places, **more})
    table = _table(data).where(given.where)
    answers = {
        name: answer if isinstance(answer, NoFit) else Continued(answer, x, y)
        for name, answer in forecasts.answers(given, table).items()
    }
    return answers[""] if given.grouped_by is None else answers


def optimum(data: Data, x: str, y: str, by: str | None = None, **more: Any) -> Any:
    """The best value of the setting ``x`` at each size, the column ``by``: ``Optima``, or a ``NoFit`` with the reason.

    ``more`` are ``highest``, where the highest ``y`` is best, and ``where``. Raises ``UserError``.
    """
    given = _given(optima.OptimumSettings, {"x": x, "y": y, "by": by, **more})
    try:
        return Optima(given, *optima.answer(given, _table(data).where(given.where)))
    except arguments.NotPossible as reason:
        return NoFit(str(reason))


def compare(
    a: Data,
    b: Data,
    x: str,
    y: str,
    *,
    levels: Sequence[float] | None = None,
    where: Several = (),
    cluster: str | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """How many times recipe ``a``'s compute recipe ``b`` needs for the same error, with intervals.

    ``x`` is the column of compute and ``y`` that of the error, in both tables; ``levels`` are errors at which to
    compare (None: the ends and the middle of what both reached); rows of one ``cluster``, say a model trained for
    several lengths, share their noise. Raises ``UserError``.
    """
    tables = [_table(data).where(tuple(_several(where))) for data in (a, b)]
    first, second = (Recipe(rows.positive(x), rows.positive(y), _numbered(rows, cluster)) for rows in tables)
    try:
        errors = None if levels is None else [float(level) for level in _several(_plain(levels))]
        return compare_recipes(first, second, levels=errors, confidence=confidence, seed=seed)
    except ValueError as problem:
        raise UserError(f"compare: {problem}") from None


def _numbered(table: Table, cluster: str | None) -> NDArray[np.float64] | None:
    """The cluster of each row [n], as a number; one without a name stands for itself."""
    return None if cluster is None else pd.factorize(arguments.cluster_names(table, cluster))[0].astype(float)


def _table(data: Data) -> Table:
    if isinstance(data, str | Path):
        return read_table(Path(data))
    try:
        return table_of(pd.DataFrame(data))
    except ValueError as problem:
        raise UserError(f"data: {problem}") from None


def _answers(
    data: Data,
    settings: type[Grouped],
    asked: Mapping[str, Any],
    answer: Callable[[Grouped, Table], Result],
) -> Result | NoFit | dict[str, Result | NoFit]:
    """The answer for ``data`` or, with ``by``, that of each value, or why there is none.

    Raises the ``UserError`` of a mistake that all have.
    """
    given = _given(settings, asked)
    table = _table(data).where(given.where)
    answers, reasons = arguments.each_group(table, given.by, lambda rows: answer(given, rows))
    mistakes = [reason for reason in reasons if not isinstance(reason, arguments.NotPossible)]
    if mistakes and len(mistakes) == len(answers):
        raise mistakes[0]
    return answers if given.by is not None else answers[""]


def _given(settings: type[Settings], asked: Mapping[str, Any]) -> Settings:
    """The arguments as a command would read them. Raises ``UserError``."""
    known = {item.name for item in fields(settings)} - {"json", "table"}
    for name in asked:
        if name not in known:
            raise UserError(f"{name}: no such argument (there are: {', '.join(sorted(known))})")
    return parse(settings, ["table=data", *_written(asked)])


def _written(asked: Mapping[str, Any]) -> list[str]:
    """The arguments as words of a command line."""
    return [f"{name}={_word(one)}" for name, value in asked.items() for one in _several(_plain(value))]


def _word(value: Any) -> str:
    """One value as typed: a place of several variables has its numbers separated by commas."""
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else to_text(value)


def _plain(value: Any) -> Any:
    """Numbers and lists of numpy and pandas as Python's."""
    if isinstance(value, np.ndarray | np.generic | pd.Series | pd.Index):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(number) for name, number in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple | list) else value


def _several(value: Any) -> Sequence[Any]:
    """What an argument says, each by itself: of a dictionary its entries as NAME=VALUE."""
    if value is None:
        return ()
    if isinstance(value, Mapping):
        return [f"{name}={number!r}" for name, number in value.items()]
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _columns(given: arguments.FittingSettings) -> tuple[str, ...]:
    """The columns that are variables of a law, in its order."""
    return tuple(name for name in (given.x, given.d, given.m, given.unique) if name is not None)
