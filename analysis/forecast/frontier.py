"""The frontier of many runs: the least y that each x has reached."""

from __future__ import annotations

import numpy as np

from analysis.laws.law import Array


def frontier(x: Array, y: Array, bins: int | None = None) -> tuple[Array, Array]:
    """x [k] rising and y [k] falling: the points [n] that no point of the same or a smaller x is below.

    With ``bins`` the best point of each of that many equal steps of log x competes, which thins out sizes that were
    trained many times.
    """
    order = np.lexsort((y, x))
    x, y = x[order], y[order]
    if bins is not None:
        x, y = _best_of_bins(x, y, bins)
    before = np.minimum.accumulate(np.concatenate([[np.inf], y[:-1]]))
    lower = y < before
    return x[lower], y[lower]


def _best_of_bins(x: Array, y: Array, bins: int) -> tuple[Array, Array]:
    away = np.log(x / x.min())
    bin_ = np.minimum((away / away.max() * bins).astype(int), bins - 1)
    best = [members[y[members].argmin()] for members in (np.flatnonzero(bin_ == one) for one in np.unique(bin_))]
    return x[best], y[best]
