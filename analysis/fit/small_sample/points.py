"""The points as every law here takes them, the straight line through them, and Student's quantile."""

from __future__ import annotations

import math
import sys

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from analysis.fit.small_sample.answers import Array, NoFit

CONFIDENCE = 0.95
LARGEST_LOG = math.log(sys.float_info.max)
TOO_STEEP = "it is so steep that its value at x = 1 leaves the range of numbers"


def checked(x: ArrayLike, y: ArrayLike, min_points: int) -> tuple[Array, Array] | NoFit:
    """Sorted distinct log x [m] with the mean log y [m] at each, or the reason why no law can be fitted."""
    x_all, y_all = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    present = np.isfinite(x_all) & np.isfinite(y_all)
    x_all, y_all = x_all[present], y_all[present]
    bad = int(((x_all <= 0) | (y_all <= 0)).sum())
    if bad:
        verb = "is" if bad == 1 else "are"
        return NoFit(f"{bad} of {len(x_all)} points {verb} zero or negative, which no power law reaches")
    distinct, group = np.unique(x_all, return_inverse=True)
    if len(distinct) < min_points:
        noun = "point" if len(distinct) == 1 else "points"
        return NoFit(f"{len(distinct)} distinct {noun}; this law needs at least {min_points}")
    log_y = np.bincount(group, weights=np.log(y_all)) / np.bincount(group)
    if np.ptp(log_y) == 0:
        return NoFit("all values are equal, so there is neither a trend nor a noise level to judge one by")
    return np.log(distinct), log_y


def line(x: Array, y: Array) -> tuple[float, float]:
    """Intercept and slope of the least-squares line through ``x`` [n], ``y`` [n]."""
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return float(y.mean()) - slope * float(x.mean()), slope


def t_quantile(degrees_of_freedom: float) -> float:
    """How many standard errors a two-sided interval reaches from its middle."""
    return float(special.stdtrit(degrees_of_freedom, 0.5 + CONFIDENCE / 2))
