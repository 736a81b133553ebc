"""Prediction as a test: fit some rows, predict the others, and report the errors and the coverage. Leave-one-out does
it for each row or cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fit.bootstrap import determined, without_each
from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.student import Interval, NoFit, Prediction
from analysis.laws.law import Array, Law

MOST = 1000
"""Of more clusters than this no single one matters."""


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
    """Fit the rows that are not ``held`` [n] and predict those that are and have all values."""
    if not held.any():
        return NoFit("no row is held out")
    tested = held & np.isfinite(y) & np.isfinite(columns).all(axis=0)
    if not tested.any():
        return NoFit("no row that is held out has all values")
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
    return score(fit.predict(columns[:, tested]), y[tested], int((~held).sum()), options.confidence)


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


@dataclass(frozen=True)
class Without:
    """How the law fitted without the rows of ``label`` predicts these ``n`` rows; errors are ``predicted / y - 1``."""

    label: str
    n: int
    mean_error: float
    """Mean of the absolute relative errors."""
    worst_error: float
    """The relative error furthest from 0, with its sign."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Fits that each leave out one cluster. ``ranges`` and ``moved_most_by`` go by parameter."""

    ranges: dict[str, Interval]
    """Smallest and largest value; empty where no fit is left."""
    moved_most_by: dict[str, str]
    """The cluster without which the parameter differs most from that of all rows."""
    predictions: tuple[Without, ...]
    indispensable: tuple[str, ...]
    """Clusters without which the rest do not determine the parameters; no fit, range or prediction for these."""


def leave_one_out(fit: Fit, clusters: NDArray[np.generic] | None = None) -> LeaveOneOut | None:
    """Leave out each of ``clusters`` [n], by default those of ``fit``; None where there are too many to matter."""
    names, member = np.unique(fit.clusters if clusters is None else clusters, return_inverse=True)
    if len(names) > MOST:
        return None
    theta, weights = without_each(fit.loss, fit.theta, member)
    fitted = np.array([determined(fit.loss, *pair) for pair in zip(theta, weights, strict=True)])
    labels = [str(name) for name in names]
    kept = np.flatnonzero(fitted)
    coordinates, of_all_rows = fit.law.in_table_units(theta), fit.law.in_table_units(fit.theta)
    values = fit.law.natural(theta[kept])
    return LeaveOneOut(
        ranges={
            name: Interval(float(values[:, i].min()), float(values[:, i].max()))
            for i, name in enumerate(fit.law.names)
            if len(kept)
        },
        moved_most_by={
            name: labels[kept[np.abs(coordinates[kept, i] - of_all_rows[i]).argmax()]]
            for i, name in enumerate(fit.law.names)
            if len(kept)
        },
        predictions=tuple(_predict(fit, theta[i], member == i, labels[i]) for i in kept),
        indispensable=tuple(label for label, good in zip(labels, fitted, strict=True) if not good),
    )


def _predict(fit: Fit, theta: Array, held: NDArray[np.bool_], label: str) -> Without:
    error = np.exp(fit.law.log_value(theta, fit.loss.columns[:, held])[0]) / fit.loss.y[held] - 1
    return Without(label, len(error), float(np.abs(error).mean()), float(error[np.abs(error).argmax()]))
