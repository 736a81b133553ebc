"""Which parameters have a say in the values of a law, and how to give one back that has lost it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from analysis.fit.loss import Loss
from analysis.laws.law import Array, Law

VANISHED = 1e-3
"""A parameter that comes to an end, and moves no value by more than this share of its own change, is as good as there.
"""
HALVINGS = 40


def effect(loss: Loss, theta: Array) -> Array:
    """The largest change [K, P] of log y, at any point, per change of each internal coordinate."""
    _, jacobian = loss.law.evaluate(theta, loss.columns)
    return np.asarray(np.abs(jacobian).max(axis=1))


def vanished(loss: Loss, theta: Array) -> NDArray[np.bool_]:
    """Which parameters [P] have no say at ``theta`` [P]: they are at 0 or at a bound, their coordinate has run away."""
    return np.asarray(ending(loss.law) & (effect(loss, theta[None])[0] < VANISHED))


def ending(law: Law) -> NDArray[np.bool_]:
    """Which parameters [P] come to an end somewhere."""
    return np.array([parameter.ends for parameter in law.parameters], dtype=bool)


def run_away(loss: Loss, theta: Array, only_to_bounds: bool = False) -> Array:
    """``theta`` [K, P] in the units of the table, infinite where a parameter has run away and has no say any more."""
    told = loss.law.in_table_units(theta)
    which = np.array([parameter.bounded for parameter in loss.law.parameters]) if only_to_bounds else ending(loss.law)
    lost = which & (effect(loss, theta) < VANISHED)
    if not lost.any():
        return told
    usual = loss.law.in_table_units(np.median(loss.law.starts(loss.columns, loss.y), axis=0))
    return np.where(lost, np.copysign(np.inf, told - usual), told)


def with_effect(loss: Loss, starts: Array, theta: Array, share: float, which: Iterable[int]) -> Array:
    """``theta`` [K, P] with each parameter in ``which`` that has less effect than ``share`` moved to have it.

    It is moved towards where the law's ``starts`` [S, P] have it, no further than needed.
    """
    theta = theta.copy()
    for i in which:
        faint = np.flatnonzero(effect(loss, theta)[:, i] < share)
        if not len(faint):
            continue
        near, far = np.full(len(faint), np.median(starts[:, i])), theta[faint, i]
        for _ in range(HALVINGS):
            theta[faint, i] = (near + far) / 2
            lost = effect(loss, theta[faint])[:, i] < share
            near, far = np.where(lost, near, theta[faint, i]), np.where(lost, theta[faint, i], far)
        theta[faint, i] = near
    return theta
