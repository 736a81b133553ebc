"""Laws of one variable x > 0: model size, data or compute."""

from __future__ import annotations

import itertools

import numpy as np

from analysis.laws.law import NEGLIGIBLE, Array, Law, Parameter, coefficients, line, log_sum, softplus

EXPONENTS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.8)
PLACES = (0.02, 0.2, 0.5, 0.8)
"""Where along log x a shift may start, as fractions of the range."""
FAR = 3.0
"""How far, in log x or in the exponent, a start lies from where a shift or a ceiling has an effect."""


def power(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(A x^-alpha)``; theta is (log A, alpha)."""
    log_x = np.log(columns[0])
    value = theta[:, :1] - theta[:, 1:2] * log_x
    return value, np.stack([np.ones_like(value), np.broadcast_to(-log_x, value.shape)], axis=-1)


def offset(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + A x^-alpha)``; theta is (log E, log A, alpha)."""
    log_x = np.log(columns[0])
    fall = theta[:, 1:2] - theta[:, 2:3] * log_x
    value, (floor, share) = log_sum(np.stack([np.broadcast_to(theta[:, :1], fall.shape), fall]))
    return value, np.stack([floor, share, -share * log_x], axis=-1)


def shifted(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(A (x + s)^-alpha)``; theta is (log A, alpha, log s)."""
    log_x = np.log(columns[0])
    rise, share, _ = softplus(theta[:, 2:3] - log_x)
    away = log_x + rise
    value = theta[:, :1] - theta[:, 1:2] * away
    gradient = [np.ones_like(value), -away, -theta[:, 1:2] * share]
    return value, np.stack(gradient, axis=-1)


def shifted_offset(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + A (x + s)^-alpha)``; theta is (log E, log A, alpha, log s)."""
    fall, inner = shifted(theta[:, 1:], columns)
    value, (floor, share) = log_sum(np.stack([np.broadcast_to(theta[:, :1], fall.shape), fall]))
    return value, np.concatenate([floor[..., None], share[..., None] * inner], axis=-1)


def saturating(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(C / (1 + (k / x)^alpha))``; theta is (log C, log k, alpha)."""
    away = theta[:, 1:2] - np.log(columns[0])
    exponent = theta[:, 2:3] * away
    rise, share, _ = softplus(exponent)
    value = theta[:, :1] - rise
    return value, np.stack([np.ones_like(value), -share * theta[:, 2:3], -share * away], axis=-1)


def sigmoid(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(low + (high - low) / (1 + exp(k (x - x0))))``; theta is (log low, log(high - low), k, x0)."""
    low, span, k, middle = (theta[:, i : i + 1] for i in range(4))
    away = columns[0] - middle
    fall, beyond, _ = softplus(k * away)
    rise = span - fall
    value, (base, share) = log_sum(np.stack([np.broadcast_to(low, rise.shape), rise]))
    slope = share * beyond
    return value, np.stack([base, share, -slope * away, slope * k], axis=-1)


def _line_start(columns: Array, y: Array) -> Array:
    intercept, slope = line(np.log(columns[0]), y)
    return np.array([[intercept, -slope]])


def _offset_starts(columns: Array, y: Array) -> Array:
    log_x = np.log(columns[0])
    intercept, slope = line(log_x, y)
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
        intercept, slope = line(np.logaddexp(np.log(columns[0]), shift), y)
        starts.append([intercept, -slope, shift])
    return np.array(starts)


def _shifted_offset_starts(columns: Array, y: Array) -> Array:
    intercept, slope = line(np.log(columns[0]), y)
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
    intercept, slope = line(log_x, y)
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
