"""Laws of one variable that bend or level off: at the end, or at both ends like an error that begins at chance."""

from __future__ import annotations

import itertools

import numpy as np

from analysis.laws.law import NEGLIGIBLE, Array, Law, Parameter, by_parameter, line, log_sum, softplus

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
BEND_PLACES = (0.15, 0.35, 0.55, 0.75, 0.92)
"""Where along log x the bend may start, as fractions of the range."""
WIDTHS = (0.1, 0.7)
BEND_FLOORS = (0.05, 0.6, 0.9, 0.98)
"""Floors to start from, as shares of the smallest value."""
_BEND = (
    Parameter("b", unit="y x^c0"),
    Parameter("c0", positive=False),
    Parameter("c1", positive=False),
    Parameter("d1", unit="x"),
    Parameter("f1"),
)


def levelling(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(A (1/x + 1/s)^alpha)``; theta is (log A, alpha, log s)."""
    log_x = np.log(columns[0])
    bend, share, _ = softplus(log_x - theta[:, 2:3])
    away = bend - log_x
    value = theta[:, :1] + theta[:, 1:2] * away
    gradient = [np.ones_like(value), away, -theta[:, 1:2] * share]
    return value, by_parameter(gradient)


def m4(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(E + S p)``, ``p / (1 - p)^alpha = beta x^-c``; theta is (log E, log S, log beta, c, log alpha).

    With z = logit p the equation is ``log p - alpha log(1 - p) = right``, which rises in z at a rate between 1 and
    alpha and is convex or concave throughout: Newton's steps find its root from anywhere.
    """
    log_x = np.log(columns[0])
    log_e, log_s, log_beta, c, log_alpha = (theta[:, i : i + 1] for i in range(5))
    alpha = np.exp(log_alpha)
    z = _root(log_beta - c * log_x, alpha)
    below, share_of_p, rest = softplus(z)
    fall = log_s + z - below
    value, (floor, share) = log_sum(np.stack([np.broadcast_to(log_e, fall.shape), fall]))
    by_right = share * rest / (rest + alpha * share_of_p)  # d log y / d right
    gradient = [
        floor,
        share,
        by_right,
        -by_right * log_x,
        -by_right * alpha * below,
    ]
    return value, by_parameter(gradient)


def _root(right: Array, alpha: Array) -> Array:
    """The z [S, n] with ``log p - alpha log(1 - p) = right`` [S, n], p = expit(z)."""
    alpha, target = np.broadcast_to(alpha, right.shape).ravel(), right.ravel()
    z = np.where(target > 0, target / np.maximum(alpha, 1.0), target)
    left = np.arange(len(z))  # each root is looked for until it is exact, whatever the others need
    for _ in range(NEWTON_STEPS):
        now, steep = z[left], alpha[left]
        below, share, rest = softplus(now)
        step = (now - below + steep * below - target[left]) / (rest + steep * share)
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
        intercept, slope = line(np.logaddexp(-log_x, -level), np.log(y))
        starts.append([intercept, slope, level])
    return np.array(starts)


def _m4_starts(columns: Array, y: Array) -> Array:
    """Floors, tops and bends on a grid, the line between them by least squares of log y."""
    log_x = np.log(columns[0])
    intercept, slope = line(log_x, np.log(y))
    span = np.log(y.max() / NEGLIGIBLE)
    starts = [[np.log(NEGLIGIBLE * y.min()), span, intercept - span, -slope, 0.0]]
    low, high, alpha = np.array(list(itertools.product(FLOORS, TOPS, ALPHAS))).T
    floor = low * y.min()
    span = high * y.max() - floor
    share, weight = (y - floor[:, None]) / span[:, None], ((y - floor[:, None]) / y) ** 2
    weight = weight / weight.sum(axis=1, keepdims=True)
    right = np.log(share) - alpha[:, None] * np.log1p(-share)
    middle = weight @ log_x
    away = log_x - middle[:, None]
    c = -(weight * away * right).sum(axis=1) / np.maximum((weight * away**2).sum(axis=1), 1e-300)
    level = (weight * right).sum(axis=1) + c * middle
    return np.vstack([starts, np.column_stack([np.log(floor), np.log(span), level, c, np.log(alpha)])])


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


def bent(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1))``; theta is (log b, c0, c1, log d1, log f1)."""
    log_x = np.log(columns[0])
    log_b, c0, c1, log_d, log_f = (theta[:, i : i + 1] for i in range(5))
    width = np.exp(log_f)
    bend = (log_x - log_d) / width
    soft, beyond, _ = softplus(bend)
    value = log_b - c0 * log_x - c1 * width * soft
    gradient = [
        np.ones_like(value),
        np.broadcast_to(-log_x, value.shape),
        -width * soft,
        c1 * beyond,
        c1 * width * (bend * beyond - soft),
    ]
    return value, by_parameter(gradient)


def broken(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1))``; theta is (log a, log b, c0, c1, log d1, log f1)."""
    fall, inner = bent(theta[:, 1:], columns)
    value, (floor, share) = log_sum(np.stack([np.broadcast_to(theta[:, :1], fall.shape), fall]))
    return value, by_parameter([floor, *(share[..., None] * inner).transpose(2, 0, 1)])


def _bent_above(floor: float, log_x: Array, y: Array) -> list[list[float]]:
    """Starts of the bent law for what lies above ``floor``: bends on a grid, the rest by least squares of log y."""
    above = y - floor
    weight = above / y  # an error of log(y - floor) counts as the error of log y that it is
    place, width = np.array(list(itertools.product(BEND_PLACES, WIDTHS))).T
    bend = log_x.min() + place * np.ptp(log_x)
    soft = softplus((log_x - bend[:, None]) / width[:, None])[0]
    shapes = np.stack([np.ones_like(soft), np.broadcast_to(-log_x, soft.shape), -width[:, None] * soft], axis=-1)
    solved = np.linalg.pinv(shapes * weight[:, None], rcond=np.finfo(float).eps * len(y)) @ (np.log(above) * weight)
    starts: list[list[float]] = np.column_stack([solved, bend, np.log(width)]).tolist()
    return starts


def _bent_starts(columns: Array, y: Array) -> Array:
    return np.array(_bent_above(0.0, np.log(columns[0]), y))


def _broken_starts(columns: Array, y: Array) -> Array:
    floors = [share * y.min() for share in BEND_FLOORS]
    bent_starts = _bent_above(0.0, np.log(columns[0]), y)[len(WIDTHS) :: 2 * len(WIDTHS)]
    without = [[np.log(NEGLIGIBLE * y.min()), *start] for start in bent_starts]
    above = [[np.log(e), *start] for e in floors for start in _bent_above(e, np.log(columns[0]), y)]
    return np.array(without + above)


BENT = Law(
    "bent", "b x^-c0 (1 + (x / d1)^(1 / f1))^(-c1 f1)", "Caballero et al. 2023, arXiv:2210.14891, eq. 1 with a = 0",
    ("x",), _BEND, bent, _bent_starts,
)  # fmt: skip
BROKEN = Law(
    "broken", "a + b x^-c0 (1 + (x / d1)^(1 / f1))^(-c1 f1)", "Caballero et al. 2023, arXiv:2210.14891, eq. 1", ("x",),
    (Parameter("a", unit="y"), *_BEND), broken, _broken_starts,
)  # fmt: skip
