"""Falling laws of one variable x > 0 (model size, data or compute), and laws between two levels: a score from chance
to its ceiling, an error from a guess to its floor, of x, of N and D, or of a loss; and an error that approaches its
level exponentially in the loss."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import expit

from analysis.laws.law import NEGLIGIBLE, Array, Law, Parameter, by_parameter, coefficients, line, log_sum, softplus

EXPONENTS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.8)
PLACES = (0.02, 0.2, 0.5, 0.8)
"""Where along log x a shift may start, as fractions of the range."""
FAR = 3.0
"""How far, in log x or in the exponent, a start lies from where a shift or a ceiling has an effect."""
LOWS = (NEGLIGIBLE, 0.7, 0.98)
"""Low levels to start from, as shares of the smallest value."""
HIGHS = (1.02, 1.5)
"""High levels to start from, over the largest value."""
STEEPNESS_OF_LOGS = (0.3, 0.8, 1.6)
MIDDLES = (-0.3, 0.2, 0.5, 0.8, 1.3)
"""Where along the range of x the middle may be."""
STEEPNESS = (2.0, 5.0, 12.0)
RATES = (0.2, 1.0, 3.0, 8.0)
"""Rates of an exponential to start from, over the range of x."""
FAINT = 0.2
"""Largest share of y that the exponential has in some starts."""


def power(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(A x^-alpha)``; theta is (log A, alpha)."""
    log_x = np.log(columns[0])
    value = theta[:, :1] - theta[:, 1:2] * log_x
    return value, by_parameter([np.ones_like(value), np.broadcast_to(-log_x, value.shape)])


def offset(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + A x^-alpha)``; theta is (log E, log A, alpha)."""
    log_x = np.log(columns[0])
    fall = theta[:, 1:2] - theta[:, 2:3] * log_x
    value, (floor, share) = log_sum(np.stack([np.broadcast_to(theta[:, :1], fall.shape), fall]))
    return value, by_parameter([floor, share, -share * log_x])


def shifted(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(A (x + s)^-alpha)``; theta is (log A, alpha, log s)."""
    log_x = np.log(columns[0])
    rise, share, _ = softplus(theta[:, 2:3] - log_x)
    away = log_x + rise
    value = theta[:, :1] - theta[:, 1:2] * away
    gradient = [np.ones_like(value), -away, -theta[:, 1:2] * share]
    return value, by_parameter(gradient)


def shifted_offset(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + A (x + s)^-alpha)``; theta is (log E, log A, alpha, log s)."""
    fall, inner = shifted(theta[:, 1:], columns)
    value, (floor, share) = log_sum(np.stack([np.broadcast_to(theta[:, :1], fall.shape), fall]))
    return value, by_parameter([floor, *(share[..., None] * inner).transpose(2, 0, 1)])


def saturating(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(C / (1 + (k / x)^alpha))``; theta is (log C, log k, alpha)."""
    away = theta[:, 1:2] - np.log(columns[0])
    exponent = theta[:, 2:3] * away
    rise, share, _ = softplus(exponent)
    value = theta[:, :1] - rise
    return value, by_parameter([np.ones_like(value), -share * theta[:, 2:3], -share * away])


def sigmoid(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(low + (high - low) / (1 + exp(k (x - x0))))``; theta is (log low, log(high - low), k, x0)."""
    low, span, k, middle = (theta[:, i : i + 1] for i in range(4))
    away = columns[0] - middle
    fall, beyond, _ = softplus(k * away)
    rise = span - fall
    value, (base, share) = log_sum(np.stack([np.broadcast_to(low, rise.shape), rise]))
    slope = share * beyond
    return value, by_parameter([base, share, -slope * away, slope * k])


def _line_start(columns: Array, y: Array) -> Array:
    intercept, slope = line(np.log(columns[0]), np.log(y))
    return np.array([[intercept, -slope]])


def _offset_starts(columns: Array, y: Array) -> Array:
    log_x = np.log(columns[0])
    intercept, slope = line(log_x, np.log(y))
    starts = [[np.log(NEGLIGIBLE * y.min()), intercept, -slope]]
    for alpha in np.copysign(EXPONENTS, -slope):
        log_e, log_a = coefficients(np.stack([np.ones_like(y), np.exp(-alpha * (log_x - log_x.mean()))]), y)
        starts.append([log_e, log_a + alpha * log_x.mean(), alpha])
    return np.array(starts)


def _shifts(columns: Array) -> Array:
    log_x = np.log(columns[0])
    places: Array = np.append(log_x.min() - FAR, log_x.min() + np.array(PLACES) * np.ptp(log_x))
    return places


def _shifted_starts(columns: Array, y: Array) -> Array:
    starts = []
    for shift in _shifts(columns):
        intercept, slope = line(np.logaddexp(np.log(columns[0]), shift), np.log(y))
        starts.append([intercept, -slope, shift])
    return np.array(starts)


def _shifted_offset_starts(columns: Array, y: Array) -> Array:
    intercept, slope = line(np.log(columns[0]), np.log(y))
    shifts = _shifts(columns)
    starts = [[np.log(NEGLIGIBLE * y.min()), intercept, -slope, shifts[0]]]
    for shift, alpha in itertools.product(shifts[1:], np.copysign(EXPONENTS[2:], -slope)):
        away = np.logaddexp(np.log(columns[0]), shift)
        log_e, log_a = coefficients(np.stack([np.ones_like(y), np.exp(-alpha * (away - away.mean()))]), y)
        starts.append([log_e, log_a + alpha * away.mean(), alpha, shift])
    return np.array(starts)


def _saturating_starts(columns: Array, y: Array) -> Array:
    log_x, top = np.log(columns[0]), np.log(y.max())
    places = [log_x.min() + place * np.ptp(log_x) for place in (-0.3, 0.2, 0.7, 1.3)]
    intercept, slope = line(log_x, np.log(y))
    slope = np.copysign(max(abs(slope), NEGLIGIBLE), slope)
    far = (log_x.max() if slope > 0 else log_x.min()) + FAR / slope
    exponents = np.copysign((0.3, 1.0, 2.0), slope)
    return np.array(
        [
            [intercept + slope * far, far, slope],
            *([top + extra, k, alpha] for extra, k, alpha in itertools.product((0.05, 0.5), places, exponents)),
        ]
    )


def _sigmoid_starts(columns: Array, y: Array) -> Array:
    x = columns[0]
    sign = -np.sign(np.polyfit(x, y, 1)[0]) or 1.0
    low, span = np.log(max(y.min() * 0.9, 1e-12)), np.log(np.ptp(y) * 1.1 + 1e-12)
    places = x.min() + np.array((0.1, 0.5, 0.9)) * np.ptp(x)
    steepness = sign * np.array((2.0, 5.0, 12.0)) / np.ptp(x)
    return np.array([[low, span, k, place] for k, place in itertools.product(steepness, places)])


POWER = Law(
    "power", "A x^-alpha", "Kaplan et al. 2020, arXiv:2001.08361, eq. 1.1; M1 of arXiv:2209.06640", ("x",),
    (Parameter("A", unit="y x^alpha"), Parameter("alpha", positive=False)), power, _line_start,
)  # fmt: skip
OFFSET = Law(
    "offset", "E + A x^-alpha", "Henighan et al. 2020, arXiv:2010.14701, eq. 1.1; M2 of arXiv:2209.06640", ("x",),
    (Parameter("E", unit="y"), *POWER.parameters), offset, _offset_starts,
)  # fmt: skip
SHIFTED = Law(
    "shifted", "A (x + s)^-alpha", "Zhai et al. 2022, arXiv:2106.04560, sec. 2.2, without its floor", ("x",),
    (*POWER.parameters, Parameter("s", unit="x")), shifted, _shifted_starts,
)  # fmt: skip
SHIFTED_OFFSET = Law(
    "shifted_offset", "E + A (x + s)^-alpha", "Zhai et al. 2022, arXiv:2106.04560, sec. 2.2", ("x",),
    (*OFFSET.parameters, Parameter("s", unit="x")), shifted_offset, _shifted_offset_starts,
)  # fmt: skip
SATURATING = Law(
    "saturating", "C / (1 + (k / x)^alpha)", "Hill 1910; rises to a ceiling C as C - C k^alpha x^-alpha", ("x",),
    (Parameter("C", unit="y"), Parameter("k", unit="x"), Parameter("alpha", positive=False)),
    saturating, _saturating_starts,
)  # fmt: skip
SIGMOID = Law(
    "sigmoid", "low + span / (1 + exp(k (x - x0)))", "Bhagia et al. 2024, arXiv:2412.04403, sec. 3.2", ("x",),
    (
        Parameter("low", unit="y"),
        Parameter("span", unit="y"),
        Parameter("k", positive=False, unit="x^-1"),
        Parameter("x0", positive=False, unit="x"),
    ),
    sigmoid, _sigmoid_starts, any_sign=True,
)  # fmt: skip


def logistic(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(low + (C - low) / (1 + exp(k (x - x0))))``; theta is (log low, log C, k, x0)."""
    away = columns[0] - theta[:, 3:4]
    value, (low, high, along) = _between(theta[:, :1], theta[:, 1:2], theta[:, 2:3] * away)
    return value, by_parameter([low, high, along * away, -along * theta[:, 2:3]])


def saturating_offset(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(low + (C - low) / (1 + (k / x)^alpha))``; theta is (log low, log C, log k, alpha)."""
    away = theta[:, 2:3] - np.log(columns[0])
    value, (low, high, along) = _between(theta[:, :1], theta[:, 1:2], theta[:, 3:4] * away)
    return value, by_parameter([low, high, along * theta[:, 3:4], along * away])


def rising(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(low + (C - low) / (1 + (k / N)^alpha + (m / D)^beta))``.

    theta is (log low, log C, log k, log m, alpha, beta).
    """
    from_n, from_d = theta[:, 2:3] - np.log(columns[0]), theta[:, 3:4] - np.log(columns[1])
    alpha, beta = theta[:, 4:5], theta[:, 5:6]
    z, (by_n, by_d) = log_sum(np.stack([alpha * from_n, beta * from_d]))
    value, (low, high, along) = _between(theta[:, :1], theta[:, 1:2], z)
    by_n, by_d = along * by_n, along * by_d
    return value, by_parameter([low, high, by_n * alpha, by_d * beta, by_n * from_n, by_d * from_d])


def exponential(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(eps - k exp(-gamma x))``; theta is (log eps, log k, gamma). Where that is negative there is no gradient."""
    below = theta[:, 1:2] - theta[:, :1] - theta[:, 2:3] * columns[0]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        left = -np.expm1(below)
        value = np.where(left > 0, theta[:, :1] + np.log(np.maximum(left, 0.0)), -np.inf)
        share = np.where(left > 0, np.exp(below) / left, np.nan)
        return value, by_parameter([1 + share, -share, share * columns[0]])


def _between(log_low: Array, log_high: Array, z: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """Log of a level ``1 / (1 + exp(z))`` of the way up, and its derivatives by the log of both levels and by z."""
    terms = [log_low - np.logaddexp(0.0, -z), log_high - np.logaddexp(0.0, z)]
    value, (low, high) = log_sum(np.stack(terms))
    return value, (low, high, low * expit(-z) - high * expit(z))


def _levels(y: Array) -> list[tuple[float, float]]:
    return [(low * y.min(), high * y.max()) for low, high in itertools.product(LOWS, HIGHS)]


def _middles(x: Array) -> Array:
    return np.asarray(x.min() + np.array(MIDDLES) * np.ptp(x))


def _logistic_starts(columns: Array, y: Array) -> Array:
    x = columns[0]
    sign = -np.sign(np.polyfit(x, y, 1)[0]) or 1.0
    steepness = sign * np.array(STEEPNESS) / np.ptp(x)
    return np.array(
        [
            [np.log(low), np.log(high), k, place]
            for (low, high), k, place in itertools.product(_levels(y), steepness, _middles(x))
        ]
    )


def _saturating_offset_starts(columns: Array, y: Array) -> Array:
    log_x = np.log(columns[0])
    sign = np.sign(np.polyfit(log_x, y, 1)[0]) or 1.0
    return np.array(
        [
            [np.log(low), np.log(high), place, sign * alpha]
            for (low, high), place, alpha in itertools.product(_levels(y), _middles(log_x), STEEPNESS_OF_LOGS)
        ]
    )


def _rising_starts(columns: Array, y: Array) -> Array:
    logs = np.log(columns)
    design = np.stack([np.ones_like(y), *(logs - logs.mean(axis=1, keepdims=True))], axis=1)
    _, *slopes = np.linalg.lstsq(design, np.log(y), rcond=None)[0]
    starts = []
    for (low, high), alpha, beta in itertools.product(
        _levels(y), np.copysign(STEEPNESS_OF_LOGS[:2], slopes[0]), np.copysign(STEEPNESS_OF_LOGS[:2], slopes[1])
    ):
        short = (high - low) / (y - low) - 1
        away = logs - logs.mean(axis=1, keepdims=True)
        log_a, log_b = coefficients(np.exp(-np.array([[alpha], [beta]]) * away), short)
        middle = logs.mean(axis=1)
        starts.append([np.log(low), np.log(high), middle[0] + log_a / alpha, middle[1] + log_b / beta, alpha, beta])
    return np.array(starts)


def _exponential_starts(columns: Array, y: Array) -> Array:
    x, starts = columns[0], []
    sign = np.sign(np.polyfit(x, y, 1)[0]) or 1.0
    for rate in sign * np.array(RATES) / np.ptp(x):
        shape = np.exp(-rate * (x - x.mean()))
        slope, level = np.polyfit(shape, y, 1)
        k = max(-slope, NEGLIGIBLE * y.mean() / shape.mean())
        eps = max(level, float((y + k * shape).mean()), 1.001 * k * shape.max())
        starts.append([np.log(eps), np.log(k) + rate * x.mean(), rate])
        faint = FAINT * y.min() / shape.max()  # also for an eps that is held far below this one
        starts.append([np.log(y.mean()), np.log(faint) + rate * x.mean(), rate])
    return np.array(starts)


_LOW, _HIGH = Parameter("low", unit="y"), Parameter("C", unit="y")
LOGISTIC = Law(
    "logistic", "low + (C - low) / (1 + exp(k (x - x0)))",
    "Bhagia et al. 2024, arXiv:2412.04403, sec. 3.2, by both its ends", ("x",),
    (_LOW, _HIGH, Parameter("k", positive=False, unit="x^-1"), Parameter("x0", positive=False, unit="x")),
    logistic, _logistic_starts, any_sign=True,
)  # fmt: skip
EXPONENTIAL = Law(
    "exponential", "eps - k exp(-gamma x)", "Gadre et al. 2024, arXiv:2403.08540, eq. 5: error from loss", ("x",),
    (Parameter("eps", unit="y"), Parameter("k", unit="y"), Parameter("gamma", positive=False, unit="x^-1")),
    exponential, _exponential_starts, any_sign=True,
)  # fmt: skip
SATURATING_OFFSET = Law(
    "saturating_offset", "low + (C - low) / (1 + (k / x)^alpha)",
    "Hill 1910, from chance; with alpha < 0 it falls from C to low", ("x",),
    (_LOW, _HIGH, Parameter("k", unit="x"), Parameter("alpha", positive=False)),
    saturating_offset, _saturating_offset_starts,
)  # fmt: skip
RISING = Law(
    "rising", "low + (C - low) / (1 + (k / N)^alpha + (m / D)^beta)",
    "Hill 1910 with the terms of Hoffmann et al. 2022: near C it is C - A N^-alpha - B D^-beta", ("x", "d"),
    (
        *(_LOW, _HIGH, Parameter("k", unit="x"), Parameter("m", unit="d")),
        *(Parameter("alpha", positive=False), Parameter("beta", positive=False)),
    ),
    rising, _rising_starts,
)  # fmt: skip
