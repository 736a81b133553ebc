"""Published laws: their values come back, and a law that holds another as a limit never fits worse than it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit, nnls
from scipy.special import expit

from analysis.fit.estimate import Fit, Options, fit_law
from analysis.fit.loss import SQUARED
from analysis.fit.restricting import Asked
from analysis.fit.student import NoFit
from analysis.laws import LAWS
from analysis.laws.law import Array, Law, coefficients, softplus

# Gadre et al. 2024, arXiv:2403.08540, table 2: RedPajama, loss on C4; parameters, tokens, loss
FIVE_RUNS = np.array(
    [
        (10_569_312, 211_386_240, 5.38702091510821),
        (10_569_312, 3_382_179_840, 4.572292613487238),
        (78_914_048, 1_578_280_960, 3.899942990231468),
        (153_677_376, 3_073_547_520, 3.531147408490181),
        (411_616_256, 8_232_325_120, 3.149769456671634),
    ]
).T
LARGE_RUNS = np.array(
    [(1_439_795_200, 921_468_928_000, 2.502053562117363), (6_889_410_560, 137_788_211_200, 2.424993099368689)]
).T
SQUARES = Options(SQUARED, bootstrap=0)
X = np.geomspace(1e5, 1e9, 16)


def fitted(law: Law, columns: Array, y: Array, logarithmic: bool = True) -> Fit:
    """Least squares without intervals."""
    fit = fit_law(law, columns, y, options=Options(SQUARED, logarithmic, bootstrap=0))
    assert isinstance(fit, Fit), fit
    return fit


def value(law: str, columns: Array, *parameters: float) -> Array:
    """A law with parameters as people write them."""
    theta = [np.log(v) if one.positive else v for v, one in zip(parameters, LAWS[law].parameters, strict=True)]
    return np.asarray(np.exp(LAWS[law].log_value(np.array(theta), columns)[0]))


def test_five_small_runs_predict_two_large_ones() -> None:
    """Gadre et al.'s losses at 300 times the compute, within 1 %, by the law in M and by the tied surface alike."""
    n, d, loss = FIVE_RUNS
    large_n, large_d, measured = LARGE_RUNS
    by_m = fitted(LAWS["overtraining"], np.stack([6 * n * d, d / n]), loss, logarithmic=False)
    surface = fitted(Asked(ties=["alpha=beta"]).of(LAWS["chinchilla"]), np.stack([n, d]), loss, logarithmic=False)
    predicted = by_m.value(np.stack([6 * large_n * large_d, large_d / large_n]))
    assert np.abs(predicted / measured - 1).max() < 0.01
    assert surface.value(np.stack([large_n, large_d])) == pytest.approx(predicted, rel=1e-6)
    assert surface.parameters["alpha"] == pytest.approx(2 * by_m.parameters["eta"], rel=1e-5)
    assert surface.parameters["A"] == pytest.approx(by_m.parameters["a"] * 6 ** -by_m.parameters["eta"], rel=1e-4)
    assert by_m.parameters["E"] == pytest.approx(surface.parameters["E"], rel=1e-6)


@pytest.mark.parametrize(("rate", "batch"), [((1.79, -0.713, 0.307), (0.58, 0.0, 0.571))])
def test_the_step_law_comes_back(rate: tuple[float, ...], batch: tuple[float, ...]) -> None:
    """Li et al. 2025: learning rate and batch size as products of powers; with noise, as a regression of logs."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(6e7, 1e9, 5), np.geomspace(2e9, 1e11, 5)))
    for c, a, b in (rate, batch):
        y = c * n**a * d**b
        assert list(fitted(LAWS["product"], np.stack([n, d]), y).parameters.values()) == pytest.approx([c, a, b])
        noisy = y * np.exp(np.random.default_rng(0).normal(0, 0.1, len(n)))
        design = np.stack([np.ones_like(n), np.log(n), np.log(d)], axis=1)
        theirs = np.linalg.lstsq(design, np.log(noisy), rcond=None)[0]
        found = fitted(LAWS["product"], np.stack([n, d]), noisy).parameters
        assert [np.log(found["c"]), found["a"], found["b"]] == pytest.approx(theirs)
    only = fitted(Asked(["a=0"]).of(LAWS["product"]), np.stack([n, d]), 0.58 * d**0.571)
    assert only.parameters == pytest.approx({"c": 0.58, "a": 0.0, "b": 0.571})


def test_an_error_from_a_loss_falls_exponentially() -> None:
    """The second step of Gadre et al., exact and with noise against scipy; it never predicts an error below 0."""
    loss = np.linspace(2.4, 5.4, 14)
    exact = 0.850 - 2.08 * np.exp(-0.756 * loss)
    fit = fitted(LAWS["exponential"], loss[None], exact)
    assert fit.parameters == pytest.approx({"eps": 0.850, "k": 2.08, "gamma": 0.756}, rel=1e-6)
    noisy = exact + np.random.default_rng(1).normal(0, 0.003, len(loss))
    theirs, _ = curve_fit(lambda x, e, k, g: e - k * np.exp(-g * x), loss, noisy, p0=(0.85, 2, 0.7), xtol=1e-14)
    ours = fitted(LAWS["exponential"], loss[None], noisy, logarithmic=False).parameters
    assert list(ours.values()) == pytest.approx(theirs, rel=1e-5)
    assert fit.value([[0.5]])[0] == 0.0
    held = fitted(Asked(bounds=["eps<=0.8"]).of(LAWS["exponential"]), loss[None], noisy)
    assert held.diagnostics.stopped == {"eps": 0.8}


@pytest.mark.slow(seconds=8)
def test_second_steps_with_the_bounds_of_their_authors() -> None:
    """Bhagia et al.: a sigmoid from -1 <= a, b <= 1 and the point (0, 1), as scipy fits it; of eight, most at b = 1."""
    rng, stopped = np.random.default_rng(2), 0
    law = Asked(bounds=["C<=1", "k>=0", "x0>=0"]).of(LAWS["logistic"])
    for number in range(8):
        loss = np.append(np.linspace(0.6, 1.4, 60), 0.0)
        a, x0, k, b = -0.72 + 0.02 * number, 0.75 + 0.03 * number, 4.0 + 0.3 * number, 1.06 - 0.015 * number
        accuracy = np.minimum(a / (1 + np.exp(-k * (loss - x0))) + b, 1.0) + rng.normal(0, 0.005, len(loss))
        accuracy[-1] = 1.0

        def form(x: Array, a: float, x0: float, k: float, b: float) -> Array:
            return np.asarray(a / (1 + np.exp(-k * (x - x0))) + b)

        bounds = ([-1.0, 0.0, 0.0, 0.0], [0.0, np.inf, np.inf, 1.0])
        theirs, _ = curve_fit(form, loss, accuracy, p0=(-0.7, 0.9, 3.0, 0.99), bounds=bounds, xtol=1e-15, ftol=1e-15)
        fit = fitted(law, loss[None], accuracy, logarithmic=False)
        ours = fit.parameters
        assert [ours["low"] - ours["C"], ours["x0"], ours["k"], ours["C"]] == pytest.approx(theirs, abs=1e-4, rel=1e-4)
        stopped += fit.diagnostics.stopped == {"C": 1.0}
    assert 3 <= stopped <= 7


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("logistic", (0.25, 0.97, 4.0, 0.9)),
        ("logistic", (0.03, 0.9, -4.0, 0.9)),
        ("saturating_offset", (0.1, 0.85, 2e7, 0.6)),
        ("saturating_offset", (0.1, 0.99, 2e7, -0.6)),
        ("rising", (0.02, 0.8, 3e7, 2e9, 0.5, 0.4)),
        ("overtraining", (1.84, 212.0, 367.0, 0.136)),
    ],
)
def test_exact_laws_come_back(name: str, truth: tuple[float, ...]) -> None:
    """Without noise, every parameter to 1e-4."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e6, 1e10, 7), np.geomspace(1e8, 1e12, 7)))
    places = {
        "logistic": np.linspace(0.3, 1.6, 30)[None],
        "saturating_offset": np.geomspace(1e4, 1e10, 30)[None],
        "rising": np.stack([n, d]),
        "overtraining": np.stack([6 * n * d, d / n]),
    }[name]
    fit = fitted(LAWS[name], places, value(name, places, *truth))
    assert list(fit.parameters.values()) == pytest.approx(truth, rel=1e-4)


def test_a_chance_floor_is_held_at_chance() -> None:
    """Accuracy of four choices: with the floor held at a quarter the ceiling's interval holds the truth."""
    x = np.geomspace(1e6, 1e9, 12)
    y = value("saturating_offset", x[None], 0.25, 0.8, 3e7, 0.7) * np.exp(np.random.default_rng(4).normal(0, 0.01, 12))
    fit = fit_law(Asked(["low=0.25"]).of(LAWS["saturating_offset"]), x[None], y, options=Options(SQUARED))
    assert isinstance(fit, Fit)
    ceiling = fit.intervals["C"]
    assert ceiling is not None and 0.8 in ceiling and fit.value([[1.0]])[0] == pytest.approx(0.25, rel=1e-3)


def test_a_law_that_cannot_be_positive_is_refused() -> None:
    """An exponential without its level is below 0 everywhere: the reason, not a traceback."""
    x = np.linspace(1.0, 5.0, 12)
    none = fit_law(Asked(["eps=0"]).of(LAWS["exponential"]), x[None], 0.9 - 0.5 * np.exp(-x))
    assert isinstance(none, NoFit) and "not above 0" in none.reason


@pytest.mark.slow(seconds=9)
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


def test_two_coefficients_are_those_of_nnls() -> None:
    """Closed forms of what is asked for thousands of times: two shares that are not negative, and a soft bend."""
    rng = np.random.default_rng(0)
    y = np.exp(rng.normal(0, 0.3, 9))
    for _ in range(50):
        shapes = np.abs(rng.normal(1, 1, (2, 9)))
        found = np.exp(coefficients(shapes, y)) @ shapes / y - 1
        expected = nnls((shapes / y).T, np.ones(9))[0] @ shapes / y - 1
        assert found @ found == pytest.approx(expected @ expected, rel=1e-3, abs=1e-9)
    u = np.array([-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0])
    bend, slope, rest = softplus(u)
    np.testing.assert_allclose(bend, np.logaddexp(0, u), atol=1e-15)
    np.testing.assert_allclose(slope, expit(u), rtol=1e-14)
    np.testing.assert_allclose(rest, expit(-u), rtol=1e-14)
