"""One law fitted to the columns of a table: parameters, intervals, predictions and diagnostics; of a surface also the
compute-optimal size and data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.fit.bootstrap import Diagnostics, Resampling, bca_interval, diagnose, draw
from analysis.fit.loss import SQUARED, Loss, run_away
from analysis.fit.minimise import multistart, to_bounds
from analysis.fit.noise import Noise
from analysis.fit.student import Interval, NoFit, Prediction
from analysis.laws import find_law
from analysis.laws.law import Array, Law
from analysis.laws.restrictions import restriction_of
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

    An interval is None without a bootstrap, where the data do not determine the parameter, and where it was fixed.
    """

    law: Law
    theta: Array
    parameters: dict[str, float]
    intervals: dict[str, Interval | None]
    diagnostics: Diagnostics
    resampled: Array
    """Internal coordinates [B, P] of the resamples that could be fitted; none where a direction is flat."""
    numbers: NDArray[np.intp]
    """Which resamples [B] these are: two laws fitted to the same rows with the same options share their draws."""
    residuals: Array
    """Log residuals [n] of the points it was fitted to."""
    options: Options
    loss: Loss
    """What was minimised: the points and their weights."""
    noise: Noise | None
    """What was drawn [B] where rows are few; None where rows were."""
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
    def widened(self) -> Array:
        """The residuals [n] times sqrt(n / (n - P)), as fitting has made them too small."""
        spare = max(1, len(self.residuals) - len(self.theta))
        return self.residuals * np.sqrt(len(self.residuals) / spare)

    def value(self, columns: ArrayLike) -> Array:
        """The law [m] at ``columns`` [V, m]; infinite beyond the range of numbers."""
        with np.errstate(over="ignore", invalid="ignore"):
            return np.exp(self.law.log_value(self.theta, _columns(columns))[0])

    def predict(self, columns: ArrayLike) -> Prediction:
        """Predict one further observation at ``columns`` [V, m].

        Its interval takes quantiles of drawn laws with drawn noise, so it holds both what the law may be and how far
        points lie from it (Davison and Hinkley 1997, Bootstrap Methods, sec. 6.3.3).
        """
        places = _columns(columns)
        value = self.value(places)
        if not len(self.resampled):
            return Prediction(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
        rng = np.random.default_rng(self.options.seed)
        laws = self.law.log_value(self.resampled, places)
        if self.noise is not None:
            return self._from_noise(self.noise, value, laws, places, rng)
        noise = rng.choice(self.widened, size=laws.shape)
        tail = (1 - self.options.confidence) / 2
        with np.errstate(over="ignore"):  # scattered points may honestly predict "anything"
            low, high = np.exp(np.quantile(laws + noise, [tail, 1 - tail], axis=0))
        return Prediction(value, low, high)

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
        resampling = replace(resampling, theta=resampling.theta[:0], numbers=resampling.numbers[:0], noise=None)
    return Fit(
        law=law,
        theta=solution.theta,
        parameters={
            parameter.name: float(value)
            for parameter, value in zip(law.written, law.every(solution.theta), strict=True)
        },
        intervals=_intervals(loss, solution.theta, resampling, options),
        diagnostics=diagnostics,
        resampled=resampling.theta,
        numbers=resampling.numbers,
        residuals=np.log(target) - law.log_value(solution.theta, x)[0],
        options=options,
        loss=loss,
        noise=resampling.noise,
        clusters=labels,
        units=units,
    )


def _intervals(loss: Loss, fitted: Array, resampling: Resampling, options: Options) -> dict[str, Interval | None]:
    """The interval of every parameter of the form; one that is tied has that of the other."""
    searched = _searched(loss, fitted, resampling, options)
    return {
        parameter.name: searched.get(restriction_of(loss.law, parameter.name).tied or parameter.name)
        for parameter in loss.law.written
    }


def _searched(loss: Loss, fitted: Array, resampling: Resampling, options: Options) -> dict[str, Interval | None]:
    law = loss.law
    if not len(resampling.theta):
        return {}
    if resampling.noise is not None:
        return _from_noise(loss, fitted, resampling.theta, resampling.noise, options)
    natural, draws, left_out = (
        law.tell(run_away(loss, theta, only_to_bounds=True))
        for theta in (fitted[None], resampling.theta, resampling.jackknife)
    )
    return {
        name: bca_interval(float(natural[0, i]), draws[:, i], left_out[:, i], options.confidence)
        for i, name in enumerate(law.names)
    }


def _from_noise(loss: Loss, fitted: Array, theta: Array, noise: Noise, options: Options) -> dict[str, Interval | None]:
    """Intervals of the parameters from draws ``theta`` [B, P] about the ``fitted`` coordinates."""
    law = loss.law
    matrix = law.table_gradient(fitted)
    drawn = run_away(loss, theta)
    ends = [noise.ends(drawn[:, i], matrix[i], options.confidence) for i in range(len(law.parameters))]
    low, high = law.tell(np.array(ends).T)
    return {name: Interval(float(low[i]), float(high[i])) for i, name in enumerate(law.names)}


def places(columns: Array) -> NDArray[np.intp]:
    """Numbers [n] that rows share which share all variables: such rows share their departure from the law."""
    return np.asarray(np.unique(columns, axis=1, return_inverse=True)[1].ravel() + 1)


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
    """N* and D* of a fitted ``chinchilla`` law at ``budget`` FLOPs, C = ``flops_per`` N D."""
    exponent, log_n = _optimum(fit.law.full(fit.theta)[None], budget, flops_per)
    exponents, logs = (
        _optimum(fit.law.full(fit.resampled), budget, flops_per) if len(fit.resampled) else (np.empty(0), np.empty(0))
    )
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # it may lie anywhere
        sizes = np.exp([log_n[0], *logs])
        data = budget / (flops_per * sizes)
        value = float(fit.value(np.array([[sizes[0]], [data[0]]]))[0])
    n, d, confidence = float(sizes[0]), float(data[0]), fit.options.confidence
    return ComputeOptimal(
        n,
        d,
        value,
        _interval_of(n, sizes[1:], confidence),
        _interval_of(d, data[1:], confidence),
        float(exponent[0]),
        _interval_of(float(exponent[0]), exponents, confidence),
    )


def _interval_of(estimate: float, draws: Array, confidence: float) -> Interval | None:
    """The bias-corrected interval; None where more resamples than a tail holds have no optimum at all."""
    real = draws[np.isfinite(draws)]
    if not np.isfinite(estimate) or len(draws) - len(real) > len(draws) * (1 - confidence) / 2:
        return None
    return bca_interval(estimate, real, np.empty(0), confidence)


def _optimum(theta: Array, budget: float, flops_per: float) -> tuple[Array, Array]:
    """The exponent [S] and log N* [S] of laws ``theta`` [S, 5]; NaN where the loss does not fall with both."""
    _, log_a, log_b, alpha, beta = np.where((theta[:, 3:] > 0).all(axis=1, keepdims=True), theta, np.nan).T
    exponent = beta / (alpha + beta)
    log_ratio = (np.log(alpha) + log_a - np.log(beta) - log_b) / (alpha + beta)
    return exponent, log_ratio + exponent * np.log(budget / flops_per)
