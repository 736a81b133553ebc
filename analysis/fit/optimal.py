"""What a fitted surface says of the best use of compute (Hoffmann et al. 2022, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.fit.bootstrap import bca_interval
from analysis.fit.estimate import Fit
from analysis.fit.small_sample import Interval
from analysis.laws.law import Array

FLOPS_PER = 6.0
"""FLOPs per parameter and token: C = 6 N D."""


@dataclass(frozen=True)
class Best:
    """At a budget of C FLOPs: the size N*, the data D* and the value there, each with its interval."""

    n: float
    d: float
    y: float
    n_interval: Interval | None
    d_interval: Interval | None
    exponent: float
    """``a`` of N* ~ C^a, beta / (alpha + beta)."""
    exponent_interval: Interval | None


def best_use(fit: Fit, budget: float, flops_per: float = FLOPS_PER) -> Best:
    """N* and D* of a fitted ``chinchilla`` law at ``budget`` FLOPs, C = ``flops_per`` N D."""
    exponent, log_n = _optimum(fit.theta[None], budget, flops_per)
    n = float(np.exp(log_n[0]))
    d = budget / (flops_per * n)
    intervals: tuple[Interval | None, ...] = (None, None, None)
    if len(fit.resampled):
        exponents, logs = _optimum(fit.resampled, budget, flops_per)
        sizes, none = np.exp(logs), np.empty(0)
        intervals = (
            bca_interval(n, sizes, none, fit.options.confidence),
            bca_interval(d, budget / (flops_per * sizes), none, fit.options.confidence),
            bca_interval(float(exponent[0]), exponents, none, fit.options.confidence),
        )
    value = float(fit.value(np.array([[n], [d]]))[0])
    return Best(n, d, value, intervals[0], intervals[1], float(exponent[0]), intervals[2])


def _optimum(theta: Array, budget: float, flops_per: float) -> tuple[Array, Array]:
    """The exponent [S] and log N* [S] of laws ``theta`` [S, 5]."""
    _, log_a, log_b, alpha, beta = theta.T
    exponent = beta / (alpha + beta)
    log_ratio = (np.log(alpha) + log_a - np.log(beta) - log_b) / (alpha + beta)
    return exponent, log_ratio + exponent * np.log(budget / flops_per)
