"""A form that holds another as a limit never fits worse than it."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.loss import SQUARED
from analysis.laws import LAWS

SQUARES = Options(SQUARED, bootstrap=0)
X = np.geomspace(1e5, 1e9, 16)


@pytest.mark.parametrize("name", ["offset", "shifted", "shifted_offset", "levelling", "m4", "bent", "broken"])
@pytest.mark.parametrize("exponent", [-0.6, -0.1, 0.0, 0.1, 0.6])
def test_no_worse_than_the_power_law(name: str, exponent: float) -> None:
    """On y that falls, is level or rises, each form with a power law in it ends no higher than that law."""
    y = 0.01 * X**exponent * np.exp(np.random.default_rng(3).normal(0, 0.01, 16))
    law, power = (fit_law(LAWS[one], X[None], y, options=SQUARES) for one in (name, "power"))
    assert isinstance(law, Fit) and isinstance(power, Fit)
    assert law.diagnostics.loss <= power.diagnostics.loss * (1 + 1e-3)


@pytest.mark.parametrize("exponent", [-0.6, -0.1, 0.1, 0.6])
def test_a_ceiling_is_no_worse_either(exponent: float) -> None:
    """The saturating law far below its ceiling is a power law that rises, and mirrored one that falls."""
    y = 0.01 * X**exponent * np.exp(np.random.default_rng(4).normal(0, 0.01, 16))
    law, power = (fit_law(LAWS[one], X[None], y, options=SQUARES) for one in ("saturating", "power"))
    assert isinstance(law, Fit) and isinstance(power, Fit)
    assert law.diagnostics.loss <= power.diagnostics.loss * (1 + 1e-3)


@pytest.mark.parametrize("signs", [(-1, 1), (1, -1), (-1, -1)])
def test_a_surface_that_rises(signs: tuple[int, int]) -> None:
    """A loss that grows with parameters or data is fitted as well as one that falls: the truth, exactly."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e5, 1e8, 6), np.geomspace(1e6, 1e9, 6)))
    alpha, beta = 0.3 * signs[0], 0.25 * signs[1]
    y = 0.5 + 2 * (n / 3e6) ** -alpha + 1.5 * (d / 3e7) ** -beta
    fit = fit_law(LAWS["chinchilla"], np.stack([n, d]), y, options=SQUARES)
    assert isinstance(fit, Fit)
    assert (fit.parameters["alpha"], fit.parameters["beta"]) == pytest.approx((alpha, beta), rel=1e-4)
    assert fit.parameters["E"] == pytest.approx(0.5, rel=1e-3)
