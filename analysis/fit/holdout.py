"""Prediction as a test: fit some rows, predict the others, and see how far off and how well covered they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fit.estimate import Options, fit_law
from analysis.fit.student import NoFit, Prediction
from analysis.laws.law import Array, Law


@dataclass(frozen=True)
class HeldOut:
    """How a law fitted to ``n_fit`` rows predicts ``n`` others. Errors are relative, ``predicted / y - 1``."""

    n_fit: int
    n: int
    mean_error: float
    """Mean of the absolute relative errors."""
    worst_error: float
    """The relative error furthest from 0, with its sign."""
    rmse_log: float
    """Root mean square of log predicted - log y."""
    coverage: float | None
    """Share of the rows within their prediction interval; None without a bootstrap."""
    confidence: float
    predicted: Array
    low: Array
    high: Array


def hold_out(
    law: Law,
    columns: Array,
    y: Array,
    held: NDArray[np.bool_],
    *,
    weights: Array | None = None,
    clusters: NDArray[np.generic] | None = None,
    options: Options,
) -> HeldOut | NoFit:
    """Fit the rows that are not ``held`` [n] and predict those that are."""
    if not held.any():
        return NoFit("no row is held out")
    fit = fit_law(
        law,
        columns[:, ~held],
        y[~held],
        weights=None if weights is None else weights[~held],
        clusters=None if clusters is None else clusters[~held],
        options=options,
    )
    if isinstance(fit, NoFit):
        return fit
    return score(fit.predict(columns[:, held]), y[held], int((~held).sum()), options.confidence)


def score(band: Prediction, y: Array, n_fit: int, confidence: float) -> HeldOut:
    """Compare what a fit to ``n_fit`` rows predicts with ``y`` [m]."""
    error = band.y / y - 1
    covered = None if np.isnan(band.low).any() else float(((band.low <= y) & (y <= band.high)).mean())
    return HeldOut(
        n_fit=n_fit,
        n=len(y),
        mean_error=float(np.abs(error).mean()),
        worst_error=float(error[np.abs(error).argmax()]),
        rmse_log=float(np.sqrt((np.log(band.y / y) ** 2).mean())),
        coverage=covered,
        confidence=confidence,
        predicted=band.y,
        low=band.low,
        high=band.high,
    )
