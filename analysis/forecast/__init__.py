"""Extrapolation of learning and scaling curves by one rule: the forecast beyond the last point, its prediction interval
and its warnings; and the frontier of many runs. ``python -m analysis.forecast``, and ``analysis.forecast(df, ...)``
from Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.fit.student import NoFit, finite
from analysis.forecast.rolling import FEWEST, Asked, Rolled, roll_all
from analysis.forecast.rule import RULE, Combined, Rule, combine, interval
from analysis.laws.law import Array
from nepa_scale.utils import callable_module

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
    """The weight of each form, adding up to 1."""
    beyond: float
    """The farthest requested place, over the largest known x."""
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


@dataclass(frozen=True)
class _How:
    confidence: float
    finished: bool
    rule: Rule


def forecast(
    x: ArrayLike,
    y: ArrayLike,
    at: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    finished: bool = False,
    rule: Rule = RULE,
) -> Forecast | NoFit:
    """Continue ``y`` [n] > 0 along ``x`` [n] > 0 to the places ``at`` [m], all beyond the largest x.

    Forms compete by the errors with which they would have forecast the later points from the earlier ones, as far
    ahead as the farthest place is now. Nothing else is set, and nothing depends on what the data are, but that of
    points which are each a ``finished`` run no late fall of a learning rate is to be feared. Returns why not, where
    the points cannot carry a forecast. Several y at one x are several points.
    """
    return forecast_all([(x, y)], at, confidence=confidence, finished=finished, rule=rule)[0]


def forecast_all(
    curves: Sequence[tuple[ArrayLike, ArrayLike]],
    at: ArrayLike,
    *,
    confidence: float = CONFIDENCE,
    finished: bool = False,
    rule: Rule = RULE,
) -> list[Forecast | NoFit]:
    """The same for several curves, each an (x, y), in less time than one after another takes."""
    places = np.atleast_1d(np.asarray(at, dtype=float))
    known = [_present(x, y) for x, y in curves]
    problems = [_problem(x, y, places) for x, y, _ in known]
    posed = [Asked(x, y, places) for (x, y, _), problem in zip(known, problems, strict=True) if problem is None]
    rolled = iter(roll_all(posed))
    how = _How(confidence, finished, rule)
    answers: list[Forecast | NoFit] = []
    for (_, _, left_out), problem in zip(known, problems, strict=True):
        if problem is not None:
            answers.append(NoFit(problem))
        else:
            curve = next(rolled)
            answers.append(_forecast(curve, combine(curve, rule), places, how, left_out))
    return answers


def _present(x: ArrayLike, y: ArrayLike) -> tuple[Array, Array, int]:
    """The points with an x and a y [n], in order of x, and how many others there are."""
    every_x, every_y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    present = np.isfinite(every_x) & np.isfinite(every_y)
    order = np.argsort(every_x[present], kind="stable")
    return every_x[present][order], every_y[present][order], int((~present).sum())


def _forecast(curve: Rolled, combined: Combined, places: Array, how: _How, left_out: int) -> Forecast:
    below, above = interval(combined, how.confidence, one_run=not how.finished, rule=how.rule)
    beyond, tested = float(np.exp(curve.horizon)), float(np.exp(combined.tested))
    with np.errstate(over="ignore"):  # scattered points may honestly forecast "anything"
        low, y, high = np.exp(combined.log_value + np.stack([-below, np.zeros_like(above), above]))
    is_error = float(curve.log_y.max()) <= 0
    warnings = _warnings(combined, beyond, tested)
    if is_error and (high > 1).any():
        low, y, high = (np.minimum(value, 1.0) for value in (low, y, high))
        warnings = (
            *warnings,
            "no point lies above 1: taken for an error, which cannot, so nothing above 1 is forecast",
        )
    return Forecast(
        at=places,
        y=y,
        low=low,
        high=high,
        confidence=how.confidence,
        shares={law.name: float(share) for law, share in zip(curve.forms, combined.shares, strict=True)},
        beyond=beyond,
        tested=tested,
        origins=combined.judged,
        rolling_error=combined.rolling_error,
        kept=combined.kept,
        left_out=left_out,
        warnings=warnings,
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


def as_json(answers: dict[str, Forecast | NoFit]) -> list[dict[str, Any]]:
    """One entry for every group, in order; a group that cannot be forecast has a reason instead."""
    return [{"group": name or None, **_forecast_as_json(answer)} for name, answer in answers.items()]


def _forecast_as_json(answer: Forecast | NoFit) -> dict[str, Any]:
    if isinstance(answer, NoFit):
        return {"reason": answer.reason}
    return {
        "predictions": [
            {"at": float(at), "value": finite(y), "interval": [finite(low), finite(high)]}
            for at, y, low, high in zip(answer.at, answer.y, answer.low, answer.high, strict=True)
        ],
        "confidence": answer.confidence,
        "shares": answer.shares,
        "beyond": answer.beyond,
        "tested": answer.tested,
        "origins": answer.origins,
        "rolling_error": answer.rolling_error,
        "kept": answer.kept,
        "left_out": answer.left_out,
        "warnings": list(answer.warnings),
    }


def frontier(x: Array, y: Array) -> tuple[Array, Array]:
    """x [k] rising and y [k] falling: the points [n] that no point of the same or a smaller x is below."""
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    before = np.minimum.accumulate(np.concatenate([[np.inf], y[:-1]]))
    lower = y < before
    return x[lower], y[lower]


callable_module(__name__, "analysis.api.frames:forecast")
