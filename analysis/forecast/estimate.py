"""A curve continued beyond its last point: the forecast, its prediction interval, and what not to believe of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.fit.small_sample import NoFit
from analysis.forecast.rolling import FEWEST, Rolled, roll
from analysis.forecast.rule import RULE, Combined, Rule, combine
from analysis.laws.law import Array

CONFIDENCE = 0.95
LITTLE_CHANGE = 0.5
"""Where less than this share of the change is kept, noise could have made a change as large as that."""
FEW_ORIGINS = 4
WELL_TESTED = 0.7
"""Share of the horizon, in log x, over which some origin must have been judged."""


@dataclass(frozen=True)
class Forecast:
    """``y`` [m] at ``at`` [m], with prediction intervals ``low`` .. ``high`` of one further point at each."""

    at: Array
    y: Array
    low: Array
    high: Array
    confidence: float
    shares: dict[str, float]
    """How much each form has to say, adding up to 1."""
    beyond: float
    """The farthest place asked for, over the largest x that is known."""
    tested: float
    """The same of the farthest forecast that rolling origins could judge."""
    origins: int
    rolling_error: float
    """Root mean square of the log errors of forecasts from earlier origins, recent ones counting more."""
    kept: float
    """Share of the forecast change that remains after noise is allowed for."""
    left_out: int
    """Rows with a missing value."""
    warnings: tuple[str, ...]


def forecast(
    x: ArrayLike, y: ArrayLike, at: ArrayLike, *, confidence: float = CONFIDENCE, rule: Rule = RULE
) -> Forecast | NoFit:
    """Continue ``y`` [n] > 0 along ``x`` [n] > 0 to the places ``at`` [m], all beyond the largest x.

    Forms compete by the errors with which they would have forecast the later points from the earlier ones, as far
    ahead as the farthest place is now. Nothing else is set, and nothing depends on what the data are. Returns why
    not, where the points cannot carry a forecast. Several y at one x are several points.
    """
    known_x, known_y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    places = np.atleast_1d(np.asarray(at, dtype=float))
    present = np.isfinite(known_x) & np.isfinite(known_y)
    known_x, known_y = known_x[present], known_y[present]
    problem = _problem(known_x, known_y, places)
    if problem is not None:
        return NoFit(problem)
    order = np.argsort(known_x, kind="stable")
    rolled = roll(known_x[order], known_y[order], places)
    return _told(rolled, combine(rolled, rule), places, confidence, rule, int((~present).sum()))


def _told(rolled: Rolled, combined: Combined, places: Array, confidence: float, rule: Rule, left_out: int) -> Forecast:
    half = rule.width * special.stdtrit(rule.freedom, 0.5 + confidence / 2) * combined.expected_error
    beyond, tested = float(np.exp(rolled.horizon)), float(np.exp(combined.tested))
    with np.errstate(over="ignore"):  # scattered points may honestly forecast "anything"
        low, y, high = np.exp(combined.log_value + np.outer([-1, 0, 1], half))
    return Forecast(
        at=places,
        y=y,
        low=low,
        high=high,
        confidence=confidence,
        shares={law.name: float(share) for law, share in zip(rolled.forms, combined.shares, strict=True)},
        beyond=beyond,
        tested=tested,
        origins=combined.judged,
        rolling_error=combined.rolling_error,
        kept=combined.kept,
        left_out=left_out,
        warnings=_warnings(combined, beyond, tested),
    )


def _warnings(combined: Combined, beyond: float, tested: float) -> tuple[str, ...]:
    warnings = []
    if combined.judged < FEW_ORIGINS:
        origins = "origin" if combined.judged == 1 else "origins"
        warnings.append(f"only {combined.judged} rolling {origins}: the forms could hardly be told apart")
    if np.log(tested) < WELL_TESTED * np.log(beyond):
        warnings.append(
            f"asked for {beyond:.3g} times the largest x, but the points test no more than {tested:.3g} times"
        )
    if combined.kept < LITTLE_CHANGE:
        warnings.append(
            "the points scatter so much that noise alone may look like such a change; "
            "the forecast stays near the last level"
        )
    return tuple(warnings)


def _problem(x: Array, y: Array, at: Array) -> str | None:
    """Why these points cannot carry a forecast, or None."""
    bad = int(((x <= 0) | (y <= 0)).sum())
    if bad:
        return f"{bad} of {len(x)} points are zero or negative; x and y must be greater than 0"
    distinct = len(np.unique(x))
    if distinct <= FEWEST:
        return f"{distinct} distinct x; a forecast needs {FEWEST + 1}, to fit {FEWEST} and to test on one"
    if not (np.isfinite(at).all() and (at > x.max()).all()):
        return f"every place asked for must lie beyond the largest x, {x.max():.6g}"
    span, beyond = x.max() / x.min(), at.max() / x.max()
    if beyond > span * (1 + 1e-9):
        return f"the points span a factor of {span:.4g} in x and carry no forecast {beyond:.4g} times beyond the last"
    if np.ptp(np.log(y)) == 0:
        return "all values are equal, so there is nothing to continue"
    return None
