"""A learning curve whose learning rate is known, continued along the rates that are planned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.fit.student import NoFit
from analysis.forecast.estimate import CONFIDENCE, Forecast
from analysis.forecast.multi_power import Features, Posterior, features, posterior
from analysis.forecast.schedule import Planned, Schedule
from analysis.laws.law import Array

FEWEST = 8
"""Distinct x past the warm-up."""
MOST_POINTS = 150
"""Longer curves are averaged over neighbours to so many points."""
ORIGINS = (0.5, 0.65, 0.8, 0.9)
"""Shares of the points after which the law is tested on the others."""
BELIEVED = 4.0
"""Prior weight, in tests that came out as expected, when the tests decide how much to widen the intervals."""
SEEN_FALL, COMING_FALL = 0.03, 0.1
"""Unless the rate has fallen by the first fraction of its peak, no forecast is made for a further fall by more than the
second."""
WIDENED = 1.5
WIDEST = 10.0
"""No forecast is made where its interval reaches so many times above it."""


@dataclass(frozen=True)
class _Tested:
    """How forecasts from earlier origins did on the points that followed them."""

    widening: float
    """How much wider than stated intervals had to be."""
    error: float
    """Root mean square of their log errors."""
    origins: int
    distance: float
    """The longest, as a ratio of x."""


@dataclass(frozen=True)
class _How:
    confidence: float
    of_one_point: bool


def forecast_scheduled(
    x: ArrayLike,
    y: ArrayLike,
    rate: ArrayLike,
    at: ArrayLike | None = None,
    *,
    planned: Planned | None = None,
    confidence: float = CONFIDENCE,
    of_one_point: bool = True,
) -> Forecast | NoFit:
    """Continue a curve ``y`` [n] > 0 along ``x`` [n] > 0, known while its learning rate was ``rate`` [n].

    Rows without a y hold the rates that are to come, unless ``planned`` states them. ``at`` [m] are places within
    these, by default the last. Points of the warm-up count for the sum of rates only. Intervals hold one further point
    with its noise, or else (not ``of_one_point``) the mean of many. Returns why not, where the points or the rates
    cannot carry a forecast. Raises ``UserError`` where ``planned`` contradicts the known rates.
    """
    every_x, every_y, rates = (np.asarray(column, dtype=float) for column in (x, y, rate))
    known = np.isfinite(every_x) & np.isfinite(every_y) & np.isfinite(rates)
    paced = np.isfinite(every_x) & np.isfinite(rates)
    left_out = int((~known & ~(paced & np.isnan(every_y))).sum())
    problem = _bad_rows(every_x[paced], every_y[known], rates[paced])
    if problem is not None:
        return NoFit(problem)
    last = every_x[known].max()
    schedule = _path(every_x[paced], rates[paced])
    if schedule is None:
        return NoFit(
            "the learning rate differs between rows of one x; a curve is one run's: tell runs apart by group=COLUMN"
        )
    if planned is not None:
        schedule = planned.continued(Schedule(schedule.x[schedule.x <= last], schedule.rate[schedule.x <= last]))
    if schedule.x[-1] <= last:
        return NoFit(
            "the learning rates to come are not known: give rows with a learning rate and an empty y, or planned=..."
        )
    places = schedule.x[-1:] if at is None else np.atleast_1d(np.asarray(at, dtype=float))
    past = known & (every_x >= schedule.x[schedule.peak])
    problem = _problem(every_x[past], schedule, last, places)
    if problem is not None:
        return NoFit(problem)
    order = np.argsort(every_x[past], kind="stable")
    how = _How(confidence, of_one_point)
    return _forecast(schedule, every_x[past][order], every_y[past][order], places, how, left_out)


def _forecast(schedule: Schedule, x: Array, y: Array, places: Array, how: _How, left_out: int) -> Forecast | NoFit:
    together = -(-len(x) // MOST_POINTS)
    mean_x, mean_y = (np.exp(_averaged(np.log(column), together)) for column in (x, y))
    all_features = features(schedule, np.append(mean_x, places))
    tested = _test(all_features, mean_x, mean_y)
    law = posterior(all_features, mean_y)
    if law is None:
        return NoFit("y does not fall as the learning rate adds up; the laws of a schedule do not hold for it")
    value = law.mean[len(mean_x) :]
    of_point = law.scatter * together * how.of_one_point
    spread = np.sqrt(law.variance[len(mean_x) :] / value**2 * tested.widening**2 + of_point)
    half = special.stdtrit(law.freedom, 0.5 + how.confidence / 2) * spread
    if half.max() > np.log(WIDEST):
        return NoFit(f"the points leave the end open by more than a factor of {WIDEST:g}; wait for more of the curve")
    warnings = (
        (f"earlier forecasts of this curve erred {tested.widening:.1f} times as expected: intervals are so much wider",)
        if tested.widening > WIDENED
        else ()
    )
    return Forecast(
        at=places,
        y=value,
        low=value * np.exp(-half),
        high=value * np.exp(half),
        confidence=how.confidence,
        shares={"multi-power": 1.0},
        beyond=float(places.max() / x[-1]),
        tested=tested.distance,
        origins=tested.origins,
        rolling_error=tested.error,
        kept=1.0,
        left_out=left_out,
        warnings=warnings,
    )


def _test(all_features: Features, x: Array, y: Array) -> _Tested:
    """Forecast the later of the points from the earlier, as far as there are enough."""
    counts = [count for share in ORIGINS if FEWEST <= (count := round(share * len(x))) < len(x)]
    known = Features(all_features.sums[: len(x)], all_features.before, all_features.gains[:, : len(x)])
    misses, errors = [], []
    for count in counts:
        law = posterior(known, y[:count])
        if law is not None:
            misses.append(_miss(law, y, count))
            errors.append(np.mean(np.log(law.mean[count:] / y[count:]) ** 2))
    mean_square = (sum(misses) + BELIEVED) / (len(misses) + BELIEVED)
    return _Tested(
        widening=max(1.0, float(np.sqrt(mean_square))),
        error=float(np.sqrt(np.mean(errors))) if errors else 0.0,
        origins=len(errors),
        distance=float(x[-1] / x[counts[0] - 1]) if counts else 1.0,
    )


def _miss(law: Posterior, y: Array, count: int) -> float:
    """Mean square of the errors after ``count`` points, each over the variance that was stated for it."""
    stated = law.variance[count : len(y)] + law.scatter * law.mean[count : len(y)] ** 2
    return float(np.mean((y[count:] - law.mean[count : len(y)]) ** 2 / stated))


def _averaged(values: Array, together: int) -> Array:
    starts = np.arange(0, len(values), together)
    means: Array = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    return means


def _path(x: Array, rate: Array) -> Schedule | None:
    """The schedule through the rows; None where two of one x differ."""
    places, which = np.unique(x, return_inverse=True)
    lowest, highest = np.full(len(places), np.inf), np.zeros(len(places))
    np.minimum.at(lowest, which, rate)
    np.maximum.at(highest, which, rate)
    if (highest - lowest > 1e-6 * rate.max()).any():
        return None
    return Schedule(places, highest)


def _bad_rows(x: Array, y: Array, rate: Array) -> str | None:
    """Why rows cannot be read as a curve and its rates, or None."""
    if not len(y):
        return "no row has an x, a y and a learning rate"
    bad = int((x <= 0).sum() + (y <= 0).sum())
    if bad:
        return f"{bad} values are zero or negative; x and y must be greater than 0"
    if (rate < 0).any() or not (rate > 0).any():
        return "learning rates must not be negative, nor all be 0"
    return None


def _problem(x: Array, schedule: Schedule, last: float, places: Array) -> str | None:
    """Why these points, past the warm-up, cannot carry the forecast, or None."""
    distinct = len(np.unique(x))
    if distinct < FEWEST:
        return f"{distinct} distinct x after the warm-up; a forecast by the schedule needs {FEWEST}"
    if not (np.isfinite(places).all() and (places > last).all()):
        return f"every place asked for must lie beyond the largest x with a y, {last:.6g}"
    if places.max() > schedule.x[-1]:
        return f"the learning rates are known to {schedule.x[-1]:.6g}; the places asked for must not lie beyond"
    seen, coming = schedule.fallen(last), max(schedule.fallen(place) for place in places)
    if seen < SEEN_FALL and coming - seen > COMING_FALL:
        return (
            f"the learning rate has fallen by {max(seen, 0):.0%} so far and will have by {coming:.0%}: "
            "what a fall gains is not known from these points"
        )
    return None
