"""Values carried along a curve tell a forecast nothing: only measured ones do."""

from __future__ import annotations

import numpy as np

from analysis.forecast.rolling import FEWEST, Asked, measured, roll_all

RANDOM = np.random.default_rng(5)


def test_of_a_run_of_equal_values_the_last_was_measured() -> None:
    """An envelope from the right ends each of its runs at the value that made it; measured by making one."""
    raw = np.exp(-0.1 * np.arange(30)) * np.exp(RANDOM.normal(0, 0.1, 30))
    envelope = np.maximum.accumulate(raw[::-1])[::-1]
    assert (np.diff(raw) > 0).any()
    assert (envelope[measured(envelope)] == raw[measured(envelope)]).all()
    assert measured(envelope).sum() == len(np.unique(envelope))


def test_curves_that_rise_or_never_repeat_are_left_alone() -> None:
    """Equal values by chance, as accuracies on a hundred images have, are measurements."""
    assert measured(np.array([0.5, 0.5, 0.4, 0.41, 0.3])).all()
    assert measured(np.array([0.5, 0.4, 0.3])).all()


def test_a_forecast_does_not_depend_on_carried_values() -> None:
    """Leaving them out of the table changes nothing."""
    x = np.geomspace(1e6, 1e9, 20)
    y = np.exp(-0.05 * np.arange(20))
    y[[3, 4, 9]] = y[[5, 5, 10]]
    own = measured(y)
    assert own.sum() == 17
    at = np.array([2e9])
    every, own_alone = (roll_all([Asked(*curve, at)])[0] for curve in ((x, y), (x[own], y[own])))
    np.testing.assert_array_equal(every.forecasts, own_alone.forecasts)


def test_too_few_measured_values_stay_with_the_carried_ones() -> None:
    """Where what remains could not be forecast from, every row counts."""
    x = np.geomspace(1e6, 1e9, 12)
    y = np.repeat([0.5, 0.4, 0.3], 4)
    assert len(roll_all([Asked(x, y, np.array([2e9]))])[0].log_x) == 12
    assert measured(y).sum() <= FEWEST
