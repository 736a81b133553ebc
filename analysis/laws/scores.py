"""Laws between two levels: a score from chance to its ceiling, an error from a guess to its floor, of x, of N and D, or
of a loss; and an error that approaches its level exponentially in the loss."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import expit

from analysis.laws.law import NEGLIGIBLE, Array, Law, Parameter, coefficients, log_sum

LOWS = (NEGLIGIBLE, 0.7, 0.98)
"""Low levels to start from, as shares of the smallest value."""
HIGHS = (1.02, 1.5)
"""High levels to start from, over the largest value."""
EXPONENTS = (0.3, 0.8, 1.6)
PLACES = (-0.3, 0.2, 0.5, 0.8, 1.3)
"""Where along the range of x the middle may be."""
STEEPNESS = (2.0, 5.0, 12.0)
RATES = (0.2, 1.0, 3.0, 8.0)
"""Rates of an exponential to start from, over the range of x."""
FAINT = 0.2
"""Largest share of y that the exponential has in some starts."""


def logistic(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(low + (C - low) / (1 + exp(k (x - x0))))``; theta is (log low, log C, k, x0)."""
    away = columns[0] - theta[:, 3:4]
    value, (low, high, along) = _between(theta[:, :1], theta[:, 1:2], theta[:, 2:3] * away)
    return value, np.stack([low, high, along * away, -along * theta[:, 2:3]], axis=-1)


def saturating_offset(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(low + (C - low) / (1 + (k / x)^alpha))``; theta is (log low, log C, log k, alpha)."""
    away = theta[:, 2:3] - np.log(columns[0])
    value, (low, high, along) = _between(theta[:, :1], theta[:, 1:2], theta[:, 3:4] * away)
    return value, np.stack([low, high, along * theta[:, 3:4], along * away], axis=-1)


def rising(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(low + (C - low) / (1 + (k / N)^alpha + (m / D)^beta))``.

    theta is (log low, log C, log k, log m, alpha, beta).
    """
    from_n, from_d = theta[:, 2:3] - np.log(columns[0]), theta[:, 3:4] - np.log(columns[1])
    alpha, beta = theta[:, 4:5], theta[:, 5:6]
    z, (by_n, by_d) = log_sum(np.stack([alpha * from_n, beta * from_d]))
    value, (low, high, along) = _between(theta[:, :1], theta[:, 1:2], z)
    by_n, by_d = along * by_n, along * by_d
    return value, np.stack([low, high, by_n * alpha, by_d * beta, by_n * from_n, by_d * from_d], axis=-1)


def exponential(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(eps - k exp(-gamma x))``; theta is (log eps, log k, gamma). Where that is negative there is no gradient."""
    below = theta[:, 1:2] - theta[:, :1] - theta[:, 2:3] * columns[0]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        left = -np.expm1(below)
        value = np.where(left > 0, theta[:, :1] + np.log(np.maximum(left, 0.0)), -np.inf)
        share = np.where(left > 0, np.exp(below) / left, np.nan)
        return value, np.stack([1 + share, -share, share * columns[0]], axis=-1)


def _between(log_low: Array, log_high: Array, z: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    """Log of a level ``1 / (1 + exp(z))`` of the way up, and its derivatives by the log of both levels and by z."""
    terms = [log_low - np.logaddexp(0.0, -z), log_high - np.logaddexp(0.0, z)]
    value, (low, high) = log_sum(np.stack(terms))
    return value, (low, high, low * expit(-z) - high * expit(z))


def _levels(y: Array) -> list[tuple[float, float]]:
    return [(low * y.min(), high * y.max()) for low, high in itertools.product(LOWS, HIGHS)]


def _middles(x: Array) -> Array:
    return np.asarray(x.min() + np.array(PLACES) * np.ptp(x))


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
            for (low, high), place, alpha in itertools.product(_levels(y), _middles(log_x), EXPONENTS)
        ]
    )


def _rising_starts(columns: Array, y: Array) -> Array:
    logs = np.log(columns)
    design = np.stack([np.ones_like(y), *(logs - logs.mean(axis=1, keepdims=True))], axis=1)
    _, *slopes = np.linalg.lstsq(design, np.log(y), rcond=None)[0]
    starts = []
    for (low, high), alpha, beta in itertools.product(
        _levels(y), np.copysign(EXPONENTS[:2], slopes[0]), np.copysign(EXPONENTS[:2], slopes[1])
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
