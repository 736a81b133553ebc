"""Fixed, tied and bounded parameters: the best law of those allowed, and intervals that know it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import least_squares

from analysis.fit.__main__ import main
from analysis.fit.estimate import Fit, Options, compute_optimal, fit_law
from analysis.fit.holdout import leave_one_out
from analysis.fit.loss import SQUARED
from analysis.fit.profile import Profile, profile
from analysis.fit.restricting import Asked
from analysis.laws import LAWS
from analysis.laws.law import Array, Law
from nepa_scale.utils.errors import UserError

CHINCHILLA = LAWS["chinchilla"]


def runs(n: int = 5, noise: float = 0.003) -> tuple[Array, Array]:
    """Columns N, D [2, n * n] and a loss of E = 1.8, alpha = beta = 0.35."""
    columns = np.stack([a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, n), np.geomspace(1e9, 1e12, n))])
    exact = 1.8 + 480 * columns[0] ** -0.35 + 2000 * columns[1] ** -0.35
    return columns, exact * np.exp(np.random.default_rng(0).normal(0, noise, n * n))


def fitted(law: Law, columns: Array, y: Array, **options: object) -> Fit:
    """Least squares of logs."""
    fit = fit_law(law, columns, y, options=Options(SQUARED, **{"bootstrap": 0, **options}))  # type: ignore[arg-type]
    assert isinstance(fit, Fit), fit
    return fit


def scipys(columns: Array, y: Array, fixed: dict[int, float], low: Array, high: Array, tied: bool = False) -> Array:
    """(E, A, B, alpha, beta) by scipy's bounded least squares, in N / 1e8 and D / 1e10, told for N and D."""
    n, d = columns[0] / 1e8, columns[1] / 1e10
    free = [i for i in range(5) if i not in fixed and not (tied and i == 4)]

    def whole(point: Array) -> Array:
        theta = np.zeros(5)
        theta[free] = point
        for i, value in fixed.items():
            theta[i] = value
        theta[4] = theta[3] if tied else theta[4]
        return theta

    def residuals(point: Array) -> Array:
        e, a, b, alpha, beta = whole(point)
        return np.asarray(np.log(y) - np.log(e + a * n**-alpha + b * d**-beta))

    start = np.clip([1.5, 1.0, 1.0, 0.3, 0.3], low + 1e-3, high - 1e-3)[free]
    tight = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "max_nfev": 20_000}
    theta = whole(least_squares(residuals, start, bounds=(low[free], high[free]), **tight).x)
    theta[1] *= 1e8 ** theta[3]
    theta[2] *= 1e10 ** theta[4]
    return theta


LOW, HIGH = np.array([0, 0, 0, -2, -2.0]), np.array([10, 100, 100, 2, 2.0])


@pytest.mark.parametrize(
    ("asked", "fixed", "low", "high", "tied"),
    [
        (Asked(["E=1.75"]), {0: 1.75}, {}, {}, False),
        (Asked(["E=0"]), {0: 0.0}, {}, {}, False),
        (Asked(["alpha=0.3,E=1.7"]), {0: 1.7, 3: 0.3}, {}, {}, False),
        (Asked(ties=["beta=alpha"]), {}, {}, {}, True),
        (Asked(bounds=["E<=1.7"]), {}, {}, {0: 1.7}, False),
        (Asked(bounds=["E>=1.9"]), {}, {0: 1.9}, {}, False),
        (Asked(bounds=["alpha<=0.3"]), {}, {}, {3: 0.3}, False),
        (Asked(bounds=["alpha>=0.38", "E<=1.9", "E>=0.5"]), {}, {0: 0.5, 3: 0.38}, {0: 1.9}, False),
        (Asked(bounds=["E>=1", "E<=3", "alpha<=1", "beta>=0"]), {}, {0: 1.0, 4: 0.0}, {0: 3.0, 3: 1.0}, False),
    ],
    ids=lambda value: str(value) if isinstance(value, Asked) else None,
)
def test_it_is_the_best_law_of_those_allowed(
    asked: Asked, fixed: dict[int, float], low: dict[int, float], high: dict[int, float], tied: bool
) -> None:
    """The same parameters as scipy's bounded least squares; what is at its bound is exactly there, and said to be."""
    columns, y = runs()
    fit = fitted(asked.of(CHINCHILLA), columns, y)
    lowest, highest = LOW.copy(), HIGH.copy()
    for i, value in low.items():
        lowest[i] = value
    for i, value in high.items():
        highest[i] = value
    theirs = scipys(columns, y, fixed, lowest, highest, tied)
    assert list(fit.parameters.values()) == pytest.approx(theirs, rel=1e-5)
    at = {CHINCHILLA.names[i]: v for ends in (low, high) for i, v in ends.items() if theirs[i] == pytest.approx(v)}
    assert fit.diagnostics.stopped == at
    assert {name: fit.parameters[name] for name in at} == pytest.approx(at, rel=1e-12)
    assert fit.diagnostics.converged and not fit.diagnostics.flat


@pytest.mark.slow(seconds=3)
@pytest.mark.parametrize("logarithmic", [True, False], ids=["log", "plain"])
@pytest.mark.parametrize("delta", [SQUARED, 1e-3], ids=["squares", "huber"])
def test_units_do_not_matter(logarithmic: bool, delta: float) -> None:
    """Bounds and numbers in the units of the table: with the table, they can be scaled by 1e9."""
    columns, y = runs()
    said = []
    for across, up in ((1.0, 1.0), (1e-9, 1e9), (1e9, 1e-9)):
        most = 490 * up * across**0.35
        law = Asked(["alpha=0.35"], bounds=[f"E<={1.75 * up!r}", "beta<=0.5", f"A<={most!r}"]).of(CHINCHILLA)
        fit = fit_law(law, columns * across, y * up, options=Options(delta, logarithmic, bootstrap=100))
        assert isinstance(fit, Fit)
        assert list(fit.diagnostics.stopped) == ["E"]
        interval, other = fit.intervals["E"], fit.intervals["beta"]
        assert interval is not None and other is not None and interval.high == pytest.approx(1.75 * up)
        ends = [interval.low / up, other.low, other.high, fit.parameters["beta"]]
        said.append([*fit.value(columns * across) / up, *ends])
    for other_units in said[1:]:
        assert other_units == pytest.approx(said[0], rel=1e-6 if delta == SQUARED else 2e-5)


def test_what_is_not_searched_for_has_no_doubt_of_its_own() -> None:
    """A fixed parameter has no interval, a tied one that of the other, all others are narrower for it."""
    columns, y = runs()
    free = fitted(CHINCHILLA, columns, y, bootstrap=200)
    held = fitted(Asked(["E=1.8"], ["alpha=beta"]).of(CHINCHILLA), columns, y, bootstrap=200)
    assert held.intervals["E"] is None and held.intervals["alpha"] == held.intervals["beta"]
    before, after = free.intervals["alpha"], held.intervals["alpha"]
    assert before is not None and after is not None
    assert after.high - after.low < 0.7 * (before.high - before.low)
    beyond = [[1e12], [1e14]]
    wide, narrow = (fit.predict(beyond) for fit in (free, held))
    assert narrow.high[0] - narrow.low[0] < wide.high[0] - wide.low[0]
    left = leave_one_out(held)
    assert left is not None and set(left.ranges) == {"A", "B", "alpha"}
    best = compute_optimal(held, 1e21)
    assert best.exponent == pytest.approx(0.5) and best.n == pytest.approx(
        (held.parameters["A"] / held.parameters["B"]) ** (1 / (2 * held.parameters["alpha"])) * (1e21 / 6) ** 0.5
    )


def test_a_profile_ends_at_the_bound() -> None:
    """Where the bound cuts it off; the other end, and those of other parameters, are where the criterion crosses."""
    columns, y = runs()
    free, cut = (fitted(a.of(CHINCHILLA), columns, y) for a in (Asked(), Asked(bounds=["E<=1.81"])))
    whole, part = profile(free, "E"), profile(cut, "E")
    assert isinstance(whole, Profile) and isinstance(part, Profile)
    assert whole.high is not None and whole.high > 1.81
    assert part.high == 1.81 and part.bounded_ends == ("high",) and part.low == pytest.approx(whole.low, rel=1e-4)
    tied = fitted(Asked(ties=["alpha=beta"]).of(CHINCHILLA), columns, y)
    together = profile(tied, "alpha")
    assert isinstance(together, Profile) and together.low is not None and together.high is not None
    for end in (together.low, together.high):
        fixed = fitted(Asked([f"alpha={end!r}"], ["alpha=beta"]).of(CHINCHILLA), columns, y)
        f = (fixed.diagnostics.loss / tied.diagnostics.loss - 1) * (25 - 4)
        assert f == pytest.approx(together.limit, rel=1e-3)


@pytest.mark.slow(seconds=7)
@pytest.mark.parametrize("n", [8, 80])
def test_an_interval_at_a_bound_is_one_sided_and_holds_the_truth(n: int) -> None:
    """A ceiling of 1 that is the truth: 95 % intervals end there and hold it, and those of others hold theirs."""
    law, rng = Asked(bounds=["C<=1"]).of(LAWS["saturating"]), np.random.default_rng(3)
    x = np.geomspace(1e6, 1e9, n)
    truth = 1 / (1 + (2e7 / x) ** 0.5)
    stopped, held, others = 0, [], []
    for _ in range(40):
        fit = fitted(law, x[None], truth * np.exp(rng.normal(0, 0.02, n)), bootstrap=200)
        ceiling, alpha = fit.intervals["C"], fit.intervals["alpha"]
        assert ceiling is not None and alpha is not None and ceiling.high <= 1
        stopped += "C" in fit.diagnostics.stopped
        held.append(ceiling.high >= 1 - 1e-9)
        others.append(0.5 in alpha)
    assert 8 <= stopped <= 32
    assert np.mean(held) >= 0.9 and np.mean(others) >= 0.85


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(["Q=1"]), "fix=Q=1: law 'chinchilla' has no parameter 'Q'"),
        (Asked(["alpa=1"]), "did you mean 'alpha'"),
        (Asked(["E"]), "give NAME=NUMBER"),
        (Asked(["E=x"]), "'x' is not a number"),
        (Asked(["E=-1"]), "is not below 0"),
        (Asked(["E=1,E=2"]), "fixed at 1 already"),
        (Asked(["E=inf"]), "must be from"),
        (Asked(["E=1,A=1,B=1,alpha=1,beta=1"]), "every parameter"),
        (Asked(ties=["alpha=E"]), "only parameters of one unit"),
        (Asked(ties=["A=B"]), "only parameters of one unit"),
        (Asked(ties=["alpha"]), "give NAME=NAME"),
        (Asked(ties=["alpha=alpha"]), "equal to itself"),
        (Asked(["alpha=0.1,beta=0.2"], ["alpha=beta"]), "alpha is fixed at 0.1 and beta at 0.2"),
        (Asked(bounds=["C<=1"]), "no parameter 'C'"),
        (Asked(bounds=["R<=1"]), "no parameter 'R' (it has E, A, B, alpha, beta)"),
        (Asked(bounds=["C<=1"]), "laws that have it: rising"),
        (Asked(bounds=["E=1"]), "give NAME<=NUMBER"),
        (Asked(bounds=["E<=0"]), "is above 0"),
        (Asked(bounds=["E<=1", "E>=2"]), "nothing is both"),
        (Asked(bounds=["E<=1,E>=1"]), "fix=E=1"),
        (Asked(["E=2"], bounds=["E<=1"]), "E is fixed at 2"),
        (Asked(ties=["alpha=beta"], bounds=["alpha<=0.2", "beta>=0.3"]), "nothing is both"),
    ],
    ids=lambda value: None if isinstance(value, Asked) else value,
)
def test_what_nothing_can_meet_is_one_line(asked: Asked, message: str) -> None:
    """Each with its key, before a search."""
    with pytest.raises(UserError, match=r"^(fix|tie|bound)=") as caught:
        asked.of(CHINCHILLA)
    assert message in str(caught.value)


def test_the_command_says_what_is_held(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fixed, tied and bounded in JSON and in the table; a profile of what is not searched for is refused."""
    columns, y = runs()
    path = tmp_path / "runs.csv"
    pd.DataFrame({"n": columns[0], "d": columns[1], "loss": y}).to_csv(path, index=False)
    words = [str(path), "--law", "chinchilla", "--x", "n", "--d", "d", "--y", "loss", "--huber", "inf"]
    words += ["--tie", "alpha=beta", "--bound", "E<=1.7", "--fix", "A=480", "--bootstrap", "100"]
    assert main([*words, "--json", "--profile", "E"]) == 0
    answer = json.loads(capsys.readouterr().out)
    told = answer["parameters"]
    assert told["A"] == {"value": 480.0, "interval": None, "fixed": True} and told["beta"]["tied_to"] == "alpha"
    assert told["E"]["bound"] == [None, 1.7] and told["E"]["interval"][1] == told["E"]["value"] == 1.7
    assert answer["certificate"]["stopped"] == {"E": 1.7} and answer["profiles"]["E"]["high"] == 1.7
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "fixed" in shown and "tied to alpha" in shown and "E is at its bound 1.7" in shown
    assert main([*words, "--profile", "beta"]) == 2
    assert "tied to alpha" in capsys.readouterr().err
