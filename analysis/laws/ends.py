"""Laws of one variable that level off: at the end, or at both ends as an error that begins as a guess."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import expit

from analysis.laws.law import Array, Law, Parameter
from analysis.laws.terms import NEGLIGIBLE, line, log_sum

PLACES = (0.1, 0.4, 0.7, 1.0, 1.5)
"""Where along log x the level may begin, as fractions of the range."""
FLOORS = (0.02, 0.5, 0.9, 0.98)
"""Floors to start from, as shares of the smallest value."""
TOPS = (1.02, 1.5)
"""Where the curve may have begun, over its largest value."""
ALPHAS = (0.05, 0.4, 1.5)
NEWTON_STEPS = 30
LONGEST_STEP = 20.0
EXACT = 1e-12


def levelling(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(A (1/x + 1/s)^alpha)``; theta is (log A, alpha, log s)."""
    away = np.logaddexp(-np.log(columns[0]), -theta[:, 2:3])
    value = theta[:, :1] + theta[:, 1:2] * away
    gradient = [np.ones_like(value), away, -theta[:, 1:2] * np.exp(-theta[:, 2:3] - away)]
    return value, np.stack(gradient, axis=-1)


def m4(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + S p)``, ``p / (1 - p)^alpha = beta x^-c``; theta is (log E, log S, log beta, c, log alpha).

    With z = logit p the equation is ``log p - alpha log(1 - p) = right``, which rises in z at a rate between 1 and
    alpha and is convex or concave throughout: Newton's steps find its root from anywhere.
    """
    log_x = np.log(columns[0])
    log_e, log_s, log_beta, c, log_alpha = (theta[:, i : i + 1] for i in range(5))
    alpha = np.exp(log_alpha)
    z = _root(log_beta - c * log_x, alpha)
    below, rate = np.logaddexp(0.0, z), expit(-z) + alpha * expit(z)
    fall = log_s + z - below
    value, (floor, share) = log_sum(np.stack([np.broadcast_to(log_e, fall.shape), fall]))
    by_right = share * expit(-z) / rate  # d log y / d right
    gradient = [
        floor,
        share,
        by_right,
        -by_right * log_x,
        -by_right * alpha * below,
    ]
    return value, np.stack(gradient, axis=-1)


def _root(right: Array, alpha: Array) -> Array:
    """The z [S, n] with ``log p - alpha log(1 - p) = right`` [S, n], p = expit(z)."""
    alpha, target = np.broadcast_to(alpha, right.shape).ravel(), right.ravel()
    z = np.where(target > 0, target / np.maximum(alpha, 1.0), target)
    left = np.arange(len(z))  # each root is looked for until it is exact, whatever the others need
    for _ in range(NEWTON_STEPS):
        now, steep = z[left], alpha[left]
        below, share = np.logaddexp(0.0, now), expit(now)
        step = (now - below + steep * below - target[left]) / (1 - share + steep * share)
        z[left] = now - np.clip(step, -LONGEST_STEP, LONGEST_STEP)
        left = left[np.abs(step) > EXACT * (1 + np.abs(now))]
        if not len(left):
            break
    return z.reshape(right.shape)


def _levelling_starts(columns: Array, y: Array) -> Array:
    log_x = np.log(columns[0])
    starts = []
    for place in PLACES:
        level = log_x.min() + place * np.ptp(log_x)
        intercept, slope = line(np.logaddexp(-log_x, -level), y)
        starts.append([intercept, slope, level])
    return np.array(starts)


def _m4_starts(columns: Array, y: Array) -> Array:
    """Floors, tops and bends on a grid, the line between them by least squares of log y."""
    log_x = np.log(columns[0])
    intercept, slope = line(log_x, y)
    span = np.log(y.max() / NEGLIGIBLE)
    starts = [[np.log(NEGLIGIBLE * y.min()), span, intercept - span, -slope, 0.0]]
    for low, high, alpha in itertools.product(FLOORS, TOPS, ALPHAS):
        floor = low * y.min()
        span = high * y.max() - floor
        share = (y - floor) / span
        weight = (y - floor) / y
        right = np.log(share) - alpha * np.log1p(-share)
        design = np.stack([np.ones_like(log_x), -log_x], axis=1) * weight[:, None]
        level, c = np.linalg.lstsq(design, right * weight, rcond=None)[0]
        starts.append([np.log(floor), np.log(span), level, c, np.log(alpha)])
    return np.array(starts)


LEVELLING = Law(
    "levelling", "A (1/x + 1/s)^alpha", "M3 of Alabdulmohsin et al. 2022, arXiv:2209.06640", ("x",),
    (Parameter("A", unit="y x^alpha"), Parameter("alpha", positive=False), Parameter("s", unit="x")),
    levelling, _levelling_starts,
)  # fmt: skip
M4 = Law(
    "m4", "E + S p, where p / (1 - p)^alpha = beta x^-c", "M4 of Alabdulmohsin et al. 2022, arXiv:2209.06640", ("x",),
    (
        Parameter("E", unit="y"),
        Parameter("S", unit="y"),
        Parameter("beta", unit="x^c"),
        Parameter("c", positive=False),
        Parameter("alpha"),
    ),
    m4, _m4_starts,
)  # fmt: skip
