"""A learning curve whose learning rate is known, continued along the rates that are planned; and so what a pre-training
under way is expected to end with.

Of a pre-training, ``1 + loss`` of the logged steps is continued by the law of a schedule. Skill is measured in
evaluations only, too few to fit a law to, so it follows from the loss: the shortfall 1 - skill over 1 + loss is taken
to stay at what the last evaluation found, and to wander from there as it did between evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.fit.student import NoFit
from analysis.forecast import CONFIDENCE, Forecast
from analysis.forecast.multi_power import Features, Planned, Posterior, Schedule, features, posterior, read_planned
from analysis.laws.law import Array
from analysis.study.metrics_file import Line, averaged, read_metrics
from nepa_scale.utils import yaml_files
from nepa_scale.utils.errors import UserError

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
FEWEST_EVALUATIONS = 3
WINDOW = 0.02
"""The loss at an evaluation is the mean of the logged steps before it, over this share of all steps."""
METRICS = ("loss", "lr", "eval_skill")
EMPTY = Line(*(np.array([]) for _ in range(3)))


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
            "the learning rate differs between rows of one x; a curve is one run's: tell runs apart with by=COLUMN"
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
    mean_x, mean_y = (np.exp(averaged(np.log(column), MOST_POINTS)) for column in (x, y))
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


@dataclass(frozen=True)
class Expected:
    """A value that is to come, with its interval."""

    value: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} .. {self.high:.3f})"


@dataclass(frozen=True)
class Ending:
    """What a pre-training is expected to end with: its training loss and its skill, or why neither can be told yet."""

    loss: Expected | NoFit
    skill: Expected | NoFit

    @property
    def in_words(self) -> str:
        """What is expected in a few words; empty where nothing is."""
        both = (("loss", self.loss), ("skill", self.skill))
        return ", ".join(f"{name} {value}" for name, value in both if isinstance(value, Expected))

    def as_json(self) -> dict[str, Any]:
        """As plain data; what is not known has a reason."""
        return {name: _as_json(value) for name, value in (("loss", self.loss), ("skill", self.skill))}


def expected_end(run_dir: Path, steps: int) -> Ending:
    """What the pre-training in ``run_dir``, of ``steps`` steps, is expected to end with, from what it has logged."""
    lines, _ = read_metrics(run_dir / "pretrain" / "metrics.jsonl", METRICS)
    loss, rate, skill = (lines.get(name, EMPTY) for name in METRICS)
    if not len(loss.steps) or not len(rate.steps):
        return _none("no step is logged yet")
    try:
        settings = _settings(run_dir)
        planned = read_planned(f"{settings.get('schedule', 'cosine')}:{steps}")
        rates = np.interp(loss.steps, rate.steps, rate.values)
        of_cosine = _is_cosine(settings)
        above = 1.0 if of_cosine else 0.0  # a cosine is -1 at best, every other loss 0
        answer = forecast_scheduled(loss.steps, above + loss.values, rates, planned=planned, of_one_point=False)
    except UserError as mistake:
        return _none(str(mistake))
    if isinstance(answer, NoFit):
        return Ending(answer, answer)
    y, low, high = (float(ends[0]) for ends in (answer.y, answer.low, answer.high))
    expected = Expected(y - above, low - above, high - above)
    if not of_cosine or settings.get("sigreg"):
        return Ending(expected, NoFit("the skill is forecast of a loss that is the cosine alone"))
    return Ending(expected, _skill(loss, skill, steps, np.log([y, low, high])))


def _settings(run_dir: Path) -> Mapping[str, Any]:
    """The run's settings of pre-training. Raises ``UserError``."""
    settings = yaml_files.read(run_dir / "config.yaml", lambda _: ()).get("pretrain")
    return settings if isinstance(settings, dict) else {}


def _is_cosine(settings: Mapping[str, Any]) -> bool:
    asked = settings.get("objective", "next_embedding"), settings.get("distance", "cosine")
    return asked == ("next_embedding", "cosine")


def _none(reason: str) -> Ending:
    return Ending(NoFit(reason), NoFit(reason))


def _skill(loss: Line, skill: Line, steps: int, log_end: Array) -> Expected | NoFit:
    """The skill at the end, from the log of 1 + loss there and of the ends of its interval [3]."""
    known = np.isfinite(skill.values) & (skill.values < 1)
    at, shortfall = skill.steps[known], 1 - skill.values[known]
    if len(at) < FEWEST_EVALUATIONS:
        return NoFit(f"{len(at)} evaluations; a forecast of the skill needs {FEWEST_EVALUATIONS}")
    ratio = np.log(shortfall / np.array([_mean_before(loss, step, WINDOW * steps) for step in at]))
    wander = np.mean(np.diff(ratio) ** 2 / np.diff(at)) * (steps - at[-1])
    half = special.stdtrit(len(at) - 1, 0.5 + CONFIDENCE / 2) * np.sqrt(wander)
    middle, low, high = log_end
    ends = middle + ratio[-1] + np.array([0.0, -np.hypot(middle - low, half), np.hypot(high - middle, half)])
    if not np.isfinite(ends).all():
        return NoFit("the logged losses do not reach the evaluations")
    value, most, least = 1 - np.exp(ends)
    return Expected(float(value), float(least), float(most))


def _mean_before(loss: Line, step: float, window: float) -> float:
    """The mean of 1 + loss over the ``window`` of steps up to ``step``, at least over the last one logged."""
    until = int(np.searchsorted(loss.steps, step, side="right"))
    since = min(int(np.searchsorted(loss.steps, step - window, side="right")), max(until - 1, 0))
    return 1 + float(np.nanmean(loss.values[since : max(until, 1)]))


def _as_json(value: Expected | NoFit) -> dict[str, Any]:
    if isinstance(value, NoFit):
        return {"reason": value.reason}
    return {"value": value.value, "interval": [value.low, value.high], "confidence": value.confidence}
