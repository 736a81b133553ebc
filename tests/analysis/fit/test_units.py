"""Whatever the units of a table are, a fit says the same."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.loss import SQUARED
from analysis.fit.profile import Profile, profile
from analysis.laws import LAWS
from analysis.laws.law import Array, Law

ROWS = 24
TRUTHS = {
    "power": (4, 0.2),
    "offset": (0.1, 40, 0.4),
    "shifted": (4, 0.3, 3e4),
    "shifted_offset": (0.1, 40, 0.4, 3e4),
    "levelling": (4, 0.3, 1e7),
    "m4": (0.1, 0.8, 40, 0.4, 1.5),
    "bent": (4, 0.2, 0.3, 1e6, 0.4),
    "broken": (0.05, 4, 0.2, 0.3, 1e6, 0.4),
    "saturating": (0.8, 1e6, 0.5),
    "saturating_offset": (0.05, 0.8, 1e6, 0.5),
    "sigmoid": (0.1, 0.8, 1e-7, 3e7),
    "logistic": (0.1, 0.9, 1e-7, 3e7),
    "exponential": (0.9, 0.7, 3e-8),
    "chinchilla": (0.3, 40, 80, 0.4, 0.35),
    "repeated": (0.3, 40, 80, 0.4, 0.35, 5.0),
    "overtraining": (0.3, 20, 30, 0.3),
    "product": (2.0, -0.7, 0.3),
    "rising": (0.05, 0.8, 1e5, 3e5, 0.6, 0.5),
}


def points(law: Law) -> tuple[Array, Array]:
    """Columns [V, n] over four decades and y [n] of a known truth with half a per cent of noise."""
    spread = np.arange(ROWS)
    n, d = np.geomspace(1e4, 1e8, ROWS), 10 ** (4 + 4 * (0.618 * spread % 1))
    columns = np.stack([n, d, d * 10 ** -(2 * (0.3819 * spread % 1))][: len(law.variables)])
    theta = [np.log(v) if one.positive else v for v, one in zip(TRUTHS[law.name], law.parameters, strict=True)]
    noise = np.random.default_rng(0).normal(0, 0.005, ROWS)
    return columns, np.exp(law.log_value(np.array([theta]), columns)[0] + noise)


def said(law: Law, columns: Array, y: Array, scales: tuple[float, float], logarithmic: bool, delta: float) -> Array:
    """All that has no unit or is a share of y: values, a prediction, numbers without unit with their intervals."""
    across, up = scales
    options = Options(delta, logarithmic, bootstrap=100)
    fit = fit_law(law, columns * across, y * up, options=options)
    assert isinstance(fit, Fit), fit
    band = fit.predict(columns[:, -1:] * across * 3)
    bare = [one.name for one in law.parameters if not one.unit]
    ends = [end for name in bare if (own := fit.intervals[name]) for end in (own.low, own.high)]
    numbers = [len(fit.diagnostics.warnings), *(fit.parameters[name] for name in bare), *ends]
    return np.concatenate([fit.value(columns * across) / up, np.r_[band.low, band.y, band.high] / up, numbers])


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("logarithmic", [True, False], ids=["log", "plain"])
@pytest.mark.parametrize("name", TRUTHS)
def test_units_do_not_matter(name: str, logarithmic: bool) -> None:
    """x and y times 1e-9 to 1e9: values, predictions, exponents and their intervals are equal to 1e-6."""
    law = LAWS[name]
    columns, y = points(law)
    reference = said(law, columns, y, (1, 1), logarithmic, SQUARED)
    for scales in ((1e-9, 1e9), (1e9, 1e-9)):
        assert said(law, columns, y, scales, logarithmic, SQUARED) == pytest.approx(reference, rel=1e-6)


def test_a_delta_of_plain_residuals_is_a_share_of_y() -> None:
    """Also a robust loss of y itself does not see the unit of y."""
    law = LAWS["offset"]
    columns, y = points(law)
    reference = said(law, columns, y, (1, 1), False, 0.003)
    assert said(law, columns, y, (1, 1e-6), False, 0.003) == pytest.approx(reference, rel=1e-5)


@pytest.mark.parametrize("name", TRUTHS)
def test_parameters_are_told_in_the_units_of_the_table(name: str) -> None:
    """What is searched in other units gives, with the parameters as they are told, the same law."""
    law = LAWS[name]
    columns, y = points(law)
    fit = fit_law(law, columns, y, options=Options(SQUARED, bootstrap=0))
    assert isinstance(fit, Fit)
    told = [np.log(fit.parameters[one.name]) if one.positive else fit.parameters[one.name] for one in law.parameters]
    assert np.exp(law.log_value(np.array([told]), columns)[0]) == pytest.approx(fit.value(columns), rel=1e-9)


@pytest.mark.parametrize("name", ["E", "A", "alpha"])
def test_profiles_of_any_parameter_in_any_unit(name: str) -> None:
    """A coefficient at x = 1 is held as such: its profile in other units of x and y is the same interval."""
    law = LAWS["offset"]
    columns, y = points(law)
    ends = []
    for across, up in ((1, 1), (1e-9, 1e9), (1e9, 1e-9)):
        fit = fit_law(law, columns * across, y * up, options=Options(SQUARED, bootstrap=0))
        assert isinstance(fit, Fit)
        found = profile(fit, name)
        assert isinstance(found, Profile) and found.low is not None and found.high is not None
        ends.append(np.array([found.low, found.high]) / (1 if name == "alpha" else up))
    if name == "A":  # y x^alpha has another meaning in each unit of x
        fit = fit_law(law, columns, y * 1e9, options=Options(SQUARED, bootstrap=0))
        assert isinstance(fit, Fit)
        scaled = profile(fit, name)
        assert isinstance(scaled, Profile)
        ends = [ends[0], np.array([scaled.low, scaled.high]) / 1e9]
    for other in ends[1:]:
        assert other == pytest.approx(ends[0], rel=1e-5)
