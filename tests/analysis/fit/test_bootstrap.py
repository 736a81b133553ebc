"""Intervals from resamples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.fit.bootstrap import bca_interval


def test_the_same_as_scipys() -> None:
    """Of a mean with skewed values: scipy's BCa interval from as many draws."""
    values = np.random.default_rng(0).exponential(size=60)
    rng = np.random.default_rng(1)
    draws = rng.choice(values, (20_000, 60)).mean(axis=1)
    jackknife = np.array([np.delete(values, i).mean() for i in range(60)])
    ours = bca_interval(float(values.mean()), draws, jackknife, 0.9)
    theirs = stats.bootstrap((values,), np.mean, confidence_level=0.9, n_resamples=20_000, random_state=2)
    assert ours is not None
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


@pytest.mark.parametrize("beyond", [np.inf, np.nan, 1e200])
@pytest.mark.parametrize("place", ["draws", "jackknife"])
def test_values_beyond_numbers_have_no_interval(place: str, beyond: float) -> None:
    """A resample that ran away gives no interval rather than an error or a number from nowhere."""
    draws, jackknife = np.linspace(0, 1, 100), np.linspace(0, 1, 10)
    (draws if place == "draws" else jackknife)[3] = beyond
    assert bca_interval(0.5, draws, jackknife, 0.9) is None
