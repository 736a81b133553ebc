"""Intervals of minima and of the exponent through them: closed forms, coverage, and reasons where they are open."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from analysis.fit.student import Interval
from analysis.isoflop import (
    OPEN,
    Allocation,
    akima_minimum,
    allocation,
    optima,
    parabola_minimum,
    parabola_through,
    same_budgets,
    vertex_interval,
)
from analysis.laws.law import Array

REPLICATIONS = 2000


def vertex_at(log_n: Array, loss: Array, place: float) -> float:
    """Sum of squared residuals of the best parabola whose vertex is at ``place``."""
    design = np.stack([np.ones_like(log_n), (log_n - place) ** 2], axis=1)
    return float(np.linalg.lstsq(design, loss, rcond=None)[1][0])


def test_ends_are_where_a_constrained_parabola_fits_too_badly() -> None:
    """Fieller's ends against the F test of parabolas with a fixed vertex, found by bisection."""
    log_n = np.log([1e6, 3e6, 8e6, 3e7, 7e7, 2e8])
    noise = np.random.default_rng(3).normal(0, 0.004, len(log_n))
    loss = 0.4 + 0.012 * (log_n - 17) ** 2 + noise
    parabola = parabola_through(log_n, loss)
    np.testing.assert_allclose(
        [parabola.curvature, parabola.slope, parabola.level], np.polyfit(log_n - parabola.middle, loss, 2)
    )
    least = vertex_at(log_n, loss, parabola.vertex)
    limit = least * (1 + stats.f.ppf(0.95, 1, 3) / 3)
    found = vertex_interval(parabola)
    for end, far in ((found.low, parabola.vertex - 3), (found.high, parabola.vertex + 3)):
        assert end == pytest.approx(
            optimize.brentq(lambda at: vertex_at(log_n, loss, at) - limit, parabola.vertex, far), abs=1e-8
        )


def test_an_end_is_open_where_no_place_can_be_told_from_the_vertex() -> None:
    """A curvature within its noise: every place on the open side fits well enough, however far."""
    log_n = np.linspace(-2.0, 2.0, 5)
    loss = 0.01 * (log_n - 1.2) ** 2 + np.array([0, 0.008, -0.012, 0.008, 0])
    parabola = parabola_through(log_n, loss)
    least = vertex_at(log_n, loss, parabola.vertex)
    limit = least * (1 + stats.f.ppf(0.95, 1, 2) / 2)
    found = vertex_interval(parabola)
    assert math.isfinite(found.low) and found.high == math.inf
    assert vertex_at(log_n, loss, found.low) == pytest.approx(limit)
    assert all(vertex_at(log_n, loss, parabola.vertex + far) < limit for far in (1, 10, 100))
    assert vertex_interval(parabola_through(-log_n[::-1], loss[::-1])) == Interval(-math.inf, pytest.approx(-found.low))
    alternating = np.array([0.1, -0.1, 0.12, -0.1, 0.1])
    assert vertex_interval(parabola_through(log_n, alternating)) == Interval(-math.inf, math.inf)


@pytest.mark.parametrize(("sizes", "noise"), [(4, 0.002), (5, 0.01), (7, 0.02)], ids=["closed", "some-open", "open"])
def test_intervals_of_minima_cover(sizes: int, noise: float) -> None:
    """An off-centre minimum lies in its 95 % interval that often, whether few intervals are open or most."""
    random = np.random.default_rng(sizes)
    log_n, true = np.linspace(-2.5, 2.5, sizes), 1.0
    found = [
        parabola_minimum(log_n, 0.3 + 0.01 * (log_n - true) ** 2 + random.normal(0, noise, sizes))
        for _ in range(REPLICATIONS)
    ]
    intervals = [one.interval for one in found if one is not None and one.interval is not None]
    assert len(intervals) > 0.9 * REPLICATIONS
    assert 0.92 <= np.mean([true in one for one in intervals]) <= 0.98


def test_the_interval_of_the_exponent_covers() -> None:
    """Parabolas at four budgets whose minima follow N* = C^0.45: the interval has 0.45 as often as it says."""
    random, exponent = np.random.default_rng(5), 0.45
    budget, place = np.repeat(np.geomspace(1e14, 1e17, 4), 6), np.tile(np.linspace(-2, 2, 6), 4)
    log_n = exponent * np.log(budget) + place + 0.3
    hits, replications = 0, 400
    for _ in range(replications):
        loss = 0.3 + 0.01 * (log_n - exponent * np.log(budget)) ** 2 + random.normal(0, 0.002, len(log_n))
        found = allocation(budget, np.exp(log_n), loss, parabola_minimum)
        assert isinstance(found, Allocation)
        hits += exponent in found.exponent_interval
    assert 0.92 <= hits / replications <= 0.98


def test_reasons_stand_where_there_is_no_interval() -> None:
    """Too few sizes, a minimum at the edge, an interpolation, and scatter each say what is the matter."""
    n = np.array([1e5, 1e6, 1e7, 1e8])
    flat = np.array([0.500, 0.490, 0.493, 0.498])
    (one,) = optima(np.full(4, 1e15), n, flat, parabola_minimum)
    assert one.reason == OPEN and one.interval == Interval(0, math.inf)
    (one,) = optima(np.full(4, 1e15), n, flat, akima_minimum)
    assert one.interval is None and "interpolation" in str(one.reason)
    (one,) = optima(np.full(3, 1e15), n[:3], flat[:3], parabola_minimum)
    assert one.interval is None and one.reason == "3 sizes, 4 are needed"
    (one,) = optima(np.full(4, 1e15), n, np.array([0.5, 0.4, 0.33, 0.28]), parabola_minimum)
    assert one.log_n is None and "not between the sizes" in str(one.reason)


def test_seeds_stand_for_their_size_together() -> None:
    """Three seeds each give the interval of their means, not one three times as sure."""
    n, random = np.repeat(np.geomspace(1e5, 1e8, 5), 3), np.random.default_rng(2)
    loss = 0.3 + 0.01 * np.log(n / 4e6) ** 2 + random.normal(0, 0.004, len(n))
    (single,) = optima(np.full(5, 1e15), n[::3], loss.reshape(5, 3).mean(axis=1), parabola_minimum)
    (several,) = optima(np.full(15, 1e15), n, loss, parabola_minimum)
    assert several.interval is not None and single.interval is not None
    assert several.interval.low == pytest.approx(single.interval.low)
    assert several.interval.high == pytest.approx(single.interval.high)


def test_budgets_within_two_per_cent_are_one() -> None:
    """Runs that met their budget within one per cent are compared; the next budget is another."""
    np.testing.assert_allclose(same_budgets(np.array([1.01e12, 2e12, 0.995e12])), [1.0025e12, 2e12, 1.0025e12])
    assert len(np.unique(same_budgets(np.array([0.99e18, 1e18, 1.01e18])))) == 1
    dense = 1e18 * 1.015 ** np.arange(6)  # each close to the next, and the last 7 % above the first
    assert len(np.unique(same_budgets(dense))) == 3
