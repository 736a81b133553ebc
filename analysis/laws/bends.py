"""Laws of one variable whose exponent changes along the way, with a floor and without."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import expit

from analysis.laws.law import Array, Law, Parameter
from analysis.laws.terms import NEGLIGIBLE, log_sum

PLACES = (0.15, 0.35, 0.55, 0.75, 0.92)
"""Where along log x the bend may start, as fractions of the range."""
WIDTHS = (0.1, 0.7)
FLOORS = (0.05, 0.6, 0.9, 0.98)
"""Floors to start from, as shares of the smallest value."""


def bent(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1))``; theta is (log b, c0, c1, log d1, log f1)."""
    log_x = np.log(columns[0])
    log_b, c0, c1, log_d, log_f = (theta[:, i : i + 1] for i in range(5))
    width = np.exp(log_f)
    bend = (log_x - log_d) / width
    soft, beyond = np.logaddexp(0.0, bend), expit(bend)
    value = log_b - c0 * log_x - c1 * width * soft
    gradient = [
        np.ones_like(value),
        np.broadcast_to(-log_x, value.shape),
        -width * soft,
        c1 * beyond,
        c1 * width * (bend * beyond - soft),
    ]
    return value, np.stack(gradient, axis=-1)


def broken(theta: Array, columns: Array) -> tuple[Array, Array]:
    """``log(a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1))``; theta is (log a, log b, c0, c1, log d1, log f1)."""
    fall, inner = bent(theta[:, 1:], columns)
    value, (floor, share) = log_sum(np.stack([np.broadcast_to(theta[:, :1], fall.shape), fall]))
    return value, np.concatenate([floor[..., None], share[..., None] * inner], axis=-1)


def _bent_above(floor: float, log_x: Array, y: Array) -> list[list[float]]:
    """Starts of the bent law for what lies above ``floor``: bends on a grid, the rest by least squares of log y."""
    above = y - floor
    weight = above / y  # an error of log(y - floor) counts as the error of log y that it is
    starts = []
    for place, width in itertools.product(PLACES, WIDTHS):
        bend = log_x.min() + place * np.ptp(log_x)
        shapes = [np.ones_like(log_x), -log_x, -width * np.logaddexp(0.0, (log_x - bend) / width)]
        design = np.stack(shapes, axis=1) * weight[:, None]
        log_b, before, after = np.linalg.lstsq(design, np.log(above) * weight, rcond=None)[0]
        starts.append([log_b, before, after, bend, np.log(width)])
    return starts


def _bent_starts(columns: Array, y: Array) -> Array:
    return np.array(_bent_above(0.0, np.log(columns[0]), y))


def _broken_starts(columns: Array, y: Array) -> Array:
    floors = [share * y.min() for share in FLOORS]
    bent_starts = _bent_above(0.0, np.log(columns[0]), y)[len(WIDTHS) :: 2 * len(WIDTHS)]
    without = [[np.log(NEGLIGIBLE * y.min()), *start] for start in bent_starts]
    above = [[np.log(e), *start] for e in floors for start in _bent_above(e, np.log(columns[0]), y)]
    return np.array(without + above)


_BEND = (
    Parameter("b", unit="y x^c0"),
    Parameter("c0", positive=False),
    Parameter("c1", positive=False),
    Parameter("d1", unit="x"),
    Parameter("f1"),
)
BENT = Law(
    "bent", "b x^-c0 (1 + (x / d1)^(1 / f1))^(-c1 f1)", "Caballero et al. 2023, arXiv:2210.14891, eq. 1 with a = 0",
    ("x",), _BEND, bent, _bent_starts,
)  # fmt: skip
BROKEN = Law(
    "broken", "a + b x^-c0 (1 + (x / d1)^(1 / f1))^(-c1 f1)", "Caballero et al. 2023, arXiv:2210.14891, eq. 1", ("x",),
    (Parameter("a", unit="y"), *_BEND), broken, _broken_starts,
)  # fmt: skip
