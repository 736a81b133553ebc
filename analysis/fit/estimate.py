"""One law fitted to the columns of a table: parameters, intervals, predictions and diagnostics; of a surface also the
compute-optimal size and data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from analysis.fit.bootstrap import Diagnostics, Resampling, diagnose, draw, no_resamples, places
from analysis.fit.intervals import Quantity, jackknife_error, parameter_intervals, quantity_interval
from analysis.fit.loss import SQUARED, Loss
from analysis.fit.minimise import multistart, to_bounds
from analysis.fit.noise import Noise
from analysis.fit.student import Interval, NoFit, Prediction, exponential
from analysis.laws import find_law
from analysis.laws.law import Array, Law
from nepa_scale.utils.errors import UserError

CONFIDENCE = 0.95
FLOPS_PER = 6.0
"""FLOPs per parameter and token: C = 6 N D."""


@dataclass(frozen=True)
class Options:
    """How to fit. ``delta`` is Huber's, infinite for least squares; ``bootstrap`` 0 leaves out the intervals."""

    delta: float = 1e-3
    logarithmic: bool = True
    bootstrap: int = 1000
    confidence: float = CONFIDENCE
    seed: int = 0


@dataclass(frozen=True, repr=False)
class Fit:
    """A fitted law. ``parameters`` and ``intervals`` go by name.

    An interval is None without a bootstrap, where the data do not determine the parameter, where it was fixed, and
    where few clusters hold several places and one of them cannot be left out.
    """

    law: Law
    theta: Array
    parameters: dict[str, float]
    intervals: dict[str, Interval | None]
    diagnostics: Diagnostics
    resampling: Resampling
    """Fits to resampled points; none where a direction is flat. Two laws fitted to the same rows with the same options
    share their draws."""
    residuals: Array
    """Log residuals [n] of the points it was fitted to."""
    options: Options
    loss: Loss
    """What was minimised: the points and their weights."""
    clusters: NDArray[np.generic]
    """Names [n] of the clusters that the points belong to, or the numbers of their rows, from 1."""
    units: NDArray[np.generic]
    """Names [n] of what departs from the law as one: the clusters, or of the places where none were named."""

    def __repr__(self) -> str:
        ends = {
            name: "" if interval is None else f" ({interval.low:.4g} .. {interval.high:.4g})"
            for name, interval in self.intervals.items()
        }
        values = ", ".join(f"{name} {value:.5g}{ends[name]}" for name, value in self.parameters.items())
        return f"y = {self.law.formula}: {values}"

    @property
    def certificate(self) -> Diagnostics:
        """The former name of ``diagnostics``."""
        return self.diagnostics

    @property
    def degrees(self) -> int:
        """Degrees of freedom of what intervals rest on: few clusters that were left out, or rows."""
        by_cluster = self.resampling.by_cluster
        return len(self.resampling.jackknife) - 1 if by_cluster else len(self.residuals) - len(self.theta)

    @property
    def widened(self) -> Array:
        """The residuals [n] times sqrt(n / (n - P)), as fitting has made them too small."""
        return self.residuals * self._spare_factor

    @property
    def _spare_factor(self) -> float:
        spare = max(1, len(self.residuals) - len(self.theta))
        return math.sqrt(len(self.residuals) / spare)

    def value(self, columns: ArrayLike) -> Array:
        """The law [m] at ``columns`` [V, m]; infinite beyond the range of numbers."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(self.law.log_value(self.theta, _columns(columns))[0])

    def predict(self, columns: ArrayLike) -> Prediction:
        """Predict one further observation at ``columns`` [V, m].

        Its interval takes quantiles of drawn laws with drawn noise, so it holds both what the law may be and how far
        points lie from it (Davison and Hinkley 1997, Bootstrap Methods, sec. 6.3.3). Where clusters were left out one
        by one it is at least Student's from the sum of both variances.
        """
        at = _columns(columns)
        value = self.value(at)
        if not len(self.resampling.theta):
            return Prediction(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
        rng = np.random.default_rng(self.options.seed)
        laws = self.law.log_value(self.resampling.theta, at)
        if self.resampling.noise is not None:
            drawn = self._from_noise(self.resampling.noise, value, laws, at, rng)
            return self._widened_by_clusters(drawn, at) if self.resampling.by_cluster else drawn
        noise = rng.choice(self.widened, size=laws.shape)
        tail = (1 - self.options.confidence) / 2
        with np.errstate(over="ignore"):  # scattered points may honestly predict "anything"
            low, high = np.exp(np.quantile(laws + noise, [tail, 1 - tail], axis=0))
        return Prediction(value, low, high)

    def interval_of(self, quantity: Quantity) -> Interval | None:
        """The interval of what ``quantity`` works out of internal coordinates [S, P] of laws.

        None where too many of the laws that the points leave open have no answer.
        """
        return quantity_interval(quantity, self.theta, self.resampling, self.options.confidence)

    @np.errstate(over="ignore", invalid="ignore")
    def _widened_by_clusters(self, drawn: Prediction, at: Array) -> Prediction:
        """``drawn``, no narrower than by the jackknife: what the law may be, and how far rows lie from it."""
        level = self.loss.level
        about = self.law.log_value(self.theta, at)[0]
        without = self.law.log_value(self.resampling.jackknife, at)
        if not self.options.logarithmic:
            about, without = drawn.y / level, np.exp(without) / level
        row = self.loss.residuals(self.theta[None])[0][0] * self._spare_factor
        error = np.hypot(jackknife_error(about, without), np.sqrt((row**2).mean()))
        half = special.stdtrit(self.degrees, (1 + self.options.confidence) / 2) * error
        ends = np.stack([about - half, about + half])
        low, high = np.exp(ends) if self.options.logarithmic else np.maximum(ends * level, 0.0)
        return Prediction(drawn.y, np.minimum(low, drawn.low), np.maximum(high, drawn.high))

    @np.errstate(over="ignore", invalid="ignore")
    def _from_noise(
        self, noise: Noise, value: Array, laws: Array, places: Array, rng: np.random.Generator
    ) -> Prediction:
        """The prediction where ``noise`` was drawn, in the measure that was minimised: log y or y."""
        level = 1.0 if self.options.logarithmic else self.loss.level
        gradients = self.law.evaluate(self.theta[None], places)[1][0]
        if not self.options.logarithmic:
            laws, gradients = np.exp(laws - np.log(level)), gradients * value[:, None] / level
        ends = np.array(
            [
                noise.further_ends(laws[:, i], gradients[i], places[:, i : i + 1], self.options.confidence, rng)
                for i in range(places.shape[1])
            ]
        )
        low, high = (np.exp(ends) if self.options.logarithmic else np.maximum(ends * level, 0.0)).T
        return Prediction(value, low, high)


def fit_law(
    law: Law | str,
    columns: ArrayLike,
    y: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    options: Options = Options(),
    paired: bool = False,
) -> Fit | NoFit:
    """Fit ``law``, or that of this name, to ``y`` [n] at ``columns`` [V, n] (its variables, in order).

    ``weights`` [n] multiply the points' losses, for example 1 / variance over seeds. ``clusters`` [n] names the rows
    that share their departure from the law, for example the model size; by default rows that share all variables do.
    ``paired`` draws are the same for all laws that are fitted to the same rows and clusters. Returns ``NoFit`` with the
    reason where the points do not allow the law: rows with missing values are left out, zero and negative values have
    no logarithm, and there must be more distinct places than parameters.
    """
    law = find_law(law, "law") if isinstance(law, str) else law
    x, target = _columns(columns), np.asarray(y, dtype=float)
    if x.shape != (len(law.variables), len(target)):
        raise UserError(
            f"columns of the shape {x.shape}: law '{law.name}' needs {len(law.variables)} "
            f"({', '.join(law.variables)}) of {len(target)} values each, as y has"
        )
    weight = np.ones(len(target)) if weights is None else np.asarray(weights, dtype=float)
    labels = np.arange(1, len(target) + 1) if clusters is None else np.asarray(clusters)
    present = np.isfinite(x).all(axis=0) & np.isfinite(target) & np.isfinite(weight)
    x, target, weight, labels = x[:, present], target[present], weight[present], labels[present]
    problem = _problem(law, x, target, weight)
    if problem is not None:
        return NoFit(problem)
    law = law.scaled(x, target)
    level = float(np.median(target))
    loss = Loss(law, x, target, weight[None] / weight.mean(), options.delta, options.logarithmic, level)
    solution = to_bounds(loss, multistart(loss, law.starts(x, target)))
    if not np.isfinite(solution.loss):
        return NoFit(f"law '{law.name}' as it is restricted is not above 0 at every row")
    units = places(x) if clusters is None else labels
    resampling = draw(loss, solution.theta, units, options.bootstrap, options.seed, paired)
    diagnostics = diagnose(loss, solution, resampling, int((~present).sum()))
    if diagnostics.flat or diagnostics.bare:
        # Resamples of points that leave a direction flat all stop beside the first fit: spread that means nothing.
        resampling = no_resamples(len(solution.theta))
    return Fit(
        law=law,
        theta=solution.theta,
        parameters={
            parameter.name: float(value)
            for parameter, value in zip(law.written, law.every(solution.theta), strict=True)
        },
        intervals=parameter_intervals(loss, solution.theta, resampling, options.confidence),
        diagnostics=diagnostics,
        resampling=resampling,
        residuals=np.log(target) - law.log_value(solution.theta, x)[0],
        options=options,
        loss=loss,
        clusters=labels,
        units=units,
    )


def _columns(columns: ArrayLike) -> Array:
    return np.atleast_2d(np.asarray(columns, dtype=float))


def _problem(law: Law, columns: Array, y: Array, weights: Array) -> str | None:
    """Why the law cannot be fitted to these points, or None."""
    if not law.parameters:
        return "every parameter is fixed, so there is nothing to fit"
    count, needed = columns.shape[1], len(law.parameters) + 1
    distinct = len(np.unique(columns, axis=1).T) if count else 0
    if distinct < needed:
        points = "place" if distinct == 1 else "places"
        return f"{distinct} distinct {points}; law '{law.name}' has {len(law.parameters)} parameters and needs {needed}"
    signs = {
        "variables are zero or negative": int((columns <= 0).any(axis=0).sum()) if not law.any_sign else 0,
        "values are zero or negative, which the law does not reach": int((y <= 0).sum()),
        "weights are zero or negative": int((weights <= 0).sum()),
    }
    wrong = [f"{bad} of {count} {what}" for what, bad in signs.items() if bad]
    if wrong:
        return "; ".join(wrong)
    if np.ptp(np.log(y)) == 0:
        return "all values are equal, so there is nothing to fit"
    flat = [name for name, values in zip(law.variables, columns, strict=True) if np.ptp(values) == 0]
    if flat:
        return f"variable {', '.join(flat)} has one value only, so its part in the law cannot be told"
    return None


def loss_of(options: Options) -> str:
    """A description of what is minimised."""
    measure = "log residuals" if options.logarithmic else "residuals"
    return f"squared {measure}" if options.delta == SQUARED else f"Huber loss of {measure}, delta {options.delta:g}"


@dataclass(frozen=True)
class ComputeOptimal:
    """At a budget of C FLOPs: the size N*, the data D* and the value there, each with its interval."""

    n: float
    d: float
    y: float
    n_interval: Interval | None
    d_interval: Interval | None
    exponent: float
    """``a`` of N* ~ C^a, beta / (alpha + beta)."""
    exponent_interval: Interval | None


def compute_optimal(fit: Fit, budget: float, flops_per: float = FLOPS_PER) -> ComputeOptimal:
    """N* and D* of a fitted ``chinchilla`` law at ``budget`` FLOPs, C = ``flops_per`` N D. Raises ``UserError``."""
    if not budget > 0:
        raise UserError(f"budget={budget:g}: must be greater than 0")

    def log_size(theta: Array) -> Array:
        return _log_optimum(fit.law.full(theta), budget, flops_per)

    def log_odds(theta: Array) -> Array:
        return _log_odds(fit.law.full(theta))

    log_n, odds = (float(each(fit.theta[None])[0]) for each in (log_size, log_odds))
    sizes, ratios = fit.interval_of(log_size), fit.interval_of(log_odds)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # it may lie anywhere
        n = float(np.exp(log_n))
        d = float(budget / (flops_per * np.float64(n)))
        value = float(fit.value(np.array([[n], [d]]))[0])
        log_tokens = math.log(budget / flops_per)
    return ComputeOptimal(
        n,
        d,
        value,
        sizes and exponential(sizes),
        sizes and exponential(Interval(log_tokens - sizes.high, log_tokens - sizes.low)),
        float(special.expit(odds)),
        ratios and Interval(float(special.expit(ratios.low)), float(special.expit(ratios.high))),
    )


def _log_odds(theta: Array) -> Array:
    """log (beta / alpha) [S] of laws ``theta`` [S, 5], the log odds of the exponent of N* ~ C^a."""
    alpha, beta = _falling(theta)[:, 3:].T
    return np.log(beta / alpha)


def _log_optimum(theta: Array, budget: float, flops_per: float) -> Array:
    """log N* [S] of laws ``theta`` [S, 5] (Hoffmann et al. 2022, eq. 4)."""
    _, log_a, log_b, alpha, beta = _falling(theta).T
    log_ratio = np.log(alpha) + log_a - np.log(beta) - log_b
    return np.asarray((log_ratio + beta * np.log(budget / flops_per)) / (alpha + beta))


def _falling(theta: Array) -> Array:
    """``theta`` [S, 5] with NaN for laws whose loss does not fall with both: these have no best division."""
    return np.where((theta[:, 3:] > 0).all(axis=1, keepdims=True), theta, np.nan)
