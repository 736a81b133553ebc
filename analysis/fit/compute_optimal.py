"""The compute-optimal size and data of a fitted surface (Hoffmann et al. 2022, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.fit.bootstrap import bca_interval
from analysis.fit.estimate import Fit
from analysis.fit.student import Interval
from analysis.laws.law import Array

FLOPS_PER = 6.0
"""FLOPs per parameter and token: C = 6 N D."""


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
        _interval(n, sizes[1:], confidence),
        _interval(d, data[1:], confidence),
        float(exponent[0]),
        _interval(float(exponent[0]), exponents, confidence),
    )


def _interval(estimate: float, draws: Array, confidence: float) -> Interval | None:
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
