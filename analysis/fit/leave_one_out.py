"""How much hangs on a single row or cluster: the law fitted again without each, and what it then says of that one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analysis.fit.bootstrap import without_each
from analysis.fit.certificate import STIFF, condition_number
from analysis.fit.estimate import Fit
from analysis.fit.student import Interval
from analysis.laws.law import Array

MOST = 1000
"""Of more clusters than this no single one matters."""


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
    fitted = np.array([_determined(fit, *pair) for pair in zip(theta, weights, strict=True)])
    labels = [str(name) for name in names]
    kept = np.flatnonzero(fitted)
    coordinates, whole = fit.law.in_table_units(theta), fit.law.in_table_units(fit.theta)
    values = fit.law.natural(theta[kept])
    return LeaveOneOut(
        ranges={
            name: Interval(float(values[:, i].min()), float(values[:, i].max()))
            for i, name in enumerate(fit.law.names)
            if len(kept)
        },
        moved_most_by={
            name: labels[kept[np.abs(coordinates[kept, i] - whole[i]).argmax()]]
            for i, name in enumerate(fit.law.names)
            if len(kept)
        },
        predictions=tuple(_predict(fit, theta[i], member == i, labels[i]) for i in kept),
        indispensable=tuple(label for label, good in zip(labels, fitted, strict=True) if not good),
    )


def _determined(fit: Fit, theta: Array, weights: Array) -> bool:
    """Whether the rows with a weight determine the law at ``theta`` [P]."""
    if not np.isfinite(theta).all():
        return False
    left = weights > 0
    rest = replace(fit.loss, columns=fit.loss.columns[:, left], y=fit.loss.y[left], weights=weights[None, left])
    places = np.unique(rest.columns, axis=1).shape[1]
    return places >= len(theta) and condition_number(rest, theta) <= STIFF


def _predict(fit: Fit, theta: Array, held: NDArray[np.bool_], label: str) -> Without:
    error = np.exp(fit.law.log_value(theta, fit.loss.columns[:, held])[0]) / fit.loss.y[held] - 1
    return Without(label, len(error), float(np.abs(error).mean()), float(error[np.abs(error).argmax()]))
