"""Sums of positive terms in logarithms, and the coefficients that start a search."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from analysis.laws.law import Array

NEGLIGIBLE = 1e-4
"""Share of y given to a term that the linear solution leaves out: a start must not sit where a gradient is 0."""


def line(log_x: Array, y: Array) -> tuple[float, float]:
    """Intercept and exponent of the power law through ``y`` [n], for starts: most forms hold it as a limit."""
    slope, intercept = np.polyfit(log_x, np.log(y), 1)
    return float(intercept), float(slope)


def log_sum(terms: Array) -> tuple[Array, Array]:
    """Log of the sum of ``exp(terms)`` [..., T, S, n] over the first axis, and each term's share [T, S, n].

    The share is the derivative of the log sum by the term.
    """
    top = terms.max(axis=0)
    scaled = np.exp(terms - top)
    total = scaled.sum(axis=0)
    return top + np.log(total), scaled / total


def coefficients(shapes: Array, y: Array) -> Array:
    """Log of the non-negative coefficients [T] with which ``shapes`` [T, n] come closest to ``y`` [n].

    Relative residuals are least squares (variable projection, Golub and Pereyra 1973, with non-negativity).
    A term that comes out as 0 gets a small share instead.
    """
    design = (shapes / y).T
    size = np.linalg.norm(design, axis=0)
    size[size == 0] = 1.0
    found, _ = nnls(design / size, np.ones(len(y)))
    smallest = NEGLIGIBLE / np.maximum(design.mean(axis=0) / size, 1e-300)
    logs: Array = np.log(np.maximum(found, smallest) / size)
    return logs
