"""Fits from Python: the answers of the commands for a data frame, errors and reasons that explain themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis as nepa_analysis
from analysis.fit.__main__ import main
from analysis.fit.estimate import fit_law
from analysis.fit.student import NoFit
from analysis.forecast.__main__ import main as forecast_command
from analysis.optimum.__main__ import main as optimum_command
from nepa_scale.utils.errors import UserError

analysis: Any = nepa_analysis
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def frame() -> pd.DataFrame:
    """Runs of a surface of N and D, with a second step."""
    n, d = (a.ravel() for a in np.meshgrid(np.geomspace(1e7, 1e10, 5), np.geomspace(1e9, 1e12, 5)))
    loss = (1.8 + 480 * n**-0.35 + 2000 * d**-0.37) * np.exp(np.random.default_rng(0).normal(0, 0.003, 25))
    return pd.DataFrame({"n": n, "d": d, "loss": loss, "error": 0.2 * loss**0.7, "set": ["a", "b"] * 12 + ["few"]})


def test_it_is_what_the_command_answers(
    frame: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same numbers and the same text; the file itself may be given, too."""
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    asked = {"law": "chinchilla", "x": "n", "d": "d", "y": "loss", "huber": "inf", "bootstrap": 100}
    words = [str(path), *(f"--{name}={value}" for name, value in asked.items())]
    words += ["--tie=alpha=beta", "--fix=E=1.8", "--profile=alpha"]
    fit = analysis.fit(frame, **asked, tie="alpha=beta", fix={"E": 1.8}, profile="alpha")
    assert main([*words, "--json"]) == 0
    assert fit.to_dict() == json.loads(capsys.readouterr().out)
    assert main(words) == 0
    assert repr(fit) == capsys.readouterr().out.rstrip()
    assert analysis.fit(path, **asked, tie="alpha=beta", fix="E=1.8").parameters == fit.parameters


def test_it_can_be_asked_tabulated_and_drawn(frame: pd.DataFrame) -> None:
    """Parameters by name, predictions by name, in order or of a frame, a table of parameters, and a picture."""
    fit = analysis.fit(frame, law="chinchilla", x="n", d="d", y="loss", huber="inf", bound=["E<=1.7"])
    table = fit.to_frame()
    assert list(table.index) == ["E", "A", "B", "alpha", "beta"]
    assert table.loc["E", "value"] == table.loc["E", "high"] == 1.7 and fit.warnings
    by_name = fit.predict(n=[1e10, 1e11], d=1e12)
    pd.testing.assert_frame_equal(by_name, fit.predict([1e10, 1e11], [1e12, 1e12]))
    pd.testing.assert_frame_equal(by_name, fit.predict(pd.DataFrame({"d": [1e12, 1e12], "n": [1e10, 1e11]})))
    assert (by_name["low"] < by_name["y"]).all() and (by_name["y"] < by_name["high"]).all()
    assert fit.profile("E").high == 1.7
    assert fit.plot().get_ylabel() == "loss, measured"
    along = analysis.fit(frame, "power", x="loss", y="error").plot()
    assert along.get_xlabel() == "loss" and along.get_xscale() == "log"


def test_its_siblings(frame: pd.DataFrame) -> None:
    """A chain, minima of equal compute, and a dictionary of answers by a column."""
    chain = analysis.chain(
        frame, x="n", d="d", through="loss", y="error", first="chinchilla", second="power", huber="inf"
    )
    assert chain.parameters["second"]["alpha"] == pytest.approx(-0.7, abs=1e-6)
    assert chain.predict(n=1e11, d=1e13)["y"][0] == pytest.approx(0.2 * chain.predict(1e11, 1e13)["first_y"][0] ** 0.7)
    assert "first link" in repr(chain) and chain.to_frame().loc[("second", "A"), "value"] == pytest.approx(0.2)
    groups = analysis.fit(frame, "power", x="loss", y="error", by="set")
    assert list(groups) == ["a", "b", "few"] and isinstance(groups["few"], NoFit)
    rows = [
        {"c": c, "n": 3e-2 * c**0.5 * s, "loss": 2 + 0.1 * np.log(s) ** 2}
        for c in np.geomspace(1e18, 1e21, 4)
        for s in np.geomspace(0.3, 3, 6)
    ]
    minima = analysis.isoflop(pd.DataFrame(rows), c="c", n="n", y="loss")
    assert minima.law.exponent == pytest.approx(0.5) and minima.predict(1e22) == pytest.approx(3e9)
    assert minima.to_frame()["n"].notna().all() and "N* ~ C^0.5" in repr(minima)


def test_forecasts_of_a_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers and the text of the command, a curve for each value of a column, and the reason of what has none."""
    x = np.geomspace(1e6, 1e9, 12)
    noise = np.random.default_rng(1).normal(0, 0.005, 12)
    curve = pd.DataFrame({"images": x, "loss": (0.3 + 20 * x**-0.3) * np.exp(noise), "run": "long"})
    both = pd.concat([curve, curve.head(3).assign(run="short")], ignore_index=True)
    answers = analysis.forecast(both, x="images", y="loss", at=[2e9, 4e9], by="run")
    assert isinstance(answers["short"], NoFit) and "a forecast needs 6" in str(answers["short"])
    frame = answers["long"].to_frame()
    assert frame["images"].tolist() == [2e9, 4e9] and (frame["low"] < frame["loss"]).all()
    assert answers["long"].plot().get_ylabel() == "loss, forecast"
    path = tmp_path / "curve.csv"
    curve.to_csv(path, index=False)
    one = analysis.forecast(path, "images", "loss", 2e9)
    words = [str(path), "x=images", "y=loss", "at=2e9"]
    assert forecast_command([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [one.to_dict()]
    assert forecast_command(words) == 0
    assert repr(one) == capsys.readouterr().out.rstrip()
    with pytest.raises(UserError, match="lr=COLUMN"):
        analysis.forecast(curve, "images", "loss")


def test_best_values_of_a_frame(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best rate of each size as the command finds it, as an object and as a frame."""
    rates, rng = 3e-3 * 2.0 ** np.arange(5), np.random.default_rng(0)
    rows = [
        {"lr": lr, "n": n, "skill": 0.5 - 0.01 * (np.log2(lr / 0.012) - i) ** 2 + rng.normal(0, 5e-4)}
        for i, n in enumerate((1e6, 1e7))
        for lr in rates
    ]
    best = analysis.optimum(pd.DataFrame(rows), x="lr", y="skill", by="n", highest=True)
    assert best.to_frame()["best"].tolist() == pytest.approx([0.012, 0.024], rel=0.05)
    path = tmp_path / "sweep.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    assert optimum_command([str(path), "x=lr", "y=skill", "by=n", "highest=true", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == best.to_dict()
    assert isinstance(analysis.optimum(pd.DataFrame(rows[:2]), x="lr", y="skill"), NoFit)


def test_what_cannot_be_fitted_says_why_when_asked(frame: pd.DataFrame) -> None:
    """A NoFit has no parameters, no prediction and no table: each says the reason."""
    none = analysis.fit(frame.head(2), "power", x="n", y="loss")
    assert isinstance(none, NoFit) and "needs 3" in str(none)
    for name in ("parameters", "predict", "to_frame", "intervals"):
        with pytest.raises(AttributeError, match=r"not fitted: .*needs 3"):
            getattr(none, name)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"law": "chinchila"}, "law=chinchila: no such law; did you mean 'chinchilla'"),
        ({"y": "los"}, "no column 'los'; did you mean 'loss'"),
        ({"d": None}, "law=chinchilla needs d=COLUMN"),
        ({"fix": {"Q": 1}}, "fix=Q=1: law 'chinchilla' has no parameter 'Q'"),
        ({"bootstap": 3}, "bootstap: no such argument"),
        ({"huber": -1}, "huber=-1: must be at least 1e-12"),
        ({"holdout": "n>1e99"}, "no row is held out"),
        ({"where": "n>1e99"}, "no row meets it"),
    ],
)
def test_mistakes_say_what_is_wrong(frame: pd.DataFrame, changed: dict[str, Any], message: str) -> None:
    """Each in Python's words, before a search."""
    with pytest.raises(UserError) as caught:
        analysis.fit(frame, **({"law": "chinchilla", "x": "n", "d": "d", "y": "loss"} | changed))
    assert message in str(caught.value)


def test_a_law_may_be_named(frame: pd.DataFrame) -> None:
    """``fit_law`` takes a name, and says which columns a law reads where they are others."""
    assert repr(fit_law("power", frame["n"], frame["loss"])).startswith("y = A x^-alpha: A ")
    with pytest.raises(UserError, match="needs 2"):
        fit_law("chinchilla", frame["n"], frame["loss"])
    with pytest.raises(UserError, match="did you mean 'power'"):
        fit_law("powr", frame["n"], frame["loss"])


def test_importing_is_quick() -> None:
    """``import analysis`` brings no library with it, and a fit never torch."""
    code = (
        "import sys, analysis; print(any(name in sys.modules for name in ('numpy', 'pandas', 'scipy', 'torch')));"
        "analysis.fit; print('numpy' in sys.modules); import analysis.api.frames; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False"]


def test_numbers_of_numpy_are_numbers(frame: pd.DataFrame) -> None:
    """What a notebook computes can be given as it is; a place of two variables is a tuple."""
    asked = {"law": "chinchilla", "x": "n", "d": "d", "y": "loss", "bootstrap": 20}
    fit = analysis.fit(frame, **asked, fix={"E": np.float64(1.8)}, at=[(1e10, 2e10), np.array([1e9, 1e10])])
    assert fit.parameters["E"] == 1.8 and len(fit.to_dict()["predictions"]) == 2
    line = analysis.fit(frame, law="power", x="n", y="loss", bootstrap=20, at=np.array([1e10, 2e10]))
    assert len(line.to_dict()["predictions"]) == 2


@pytest.mark.parametrize("wrong", [lambda fit: fit.predict(["much"]), lambda fit: fit.predict(-1.0)])
def test_a_place_that_is_none_is_refused(frame: pd.DataFrame, wrong: Any) -> None:
    """A number that no law can be asked about has no prediction, not NaN."""
    with pytest.raises(UserError, match="predict"):
        wrong(analysis.fit(frame, law="power", x="n", y="loss", bootstrap=20))


def test_columns_of_two_lengths_are_refused() -> None:
    """As any mistake: by the project's own error."""
    with pytest.raises(UserError, match="data"):
        analysis.fit({"x": [1.0, 2.0], "y": [1.0]}, law="power", x="x", y="y")


def test_a_group_that_cannot_be_answered_has_its_reason(frame: pd.DataFrame) -> None:
    """As on the command line: the other groups have their answers."""
    found = analysis.fit(frame, law="power", x="n", y="loss", by="set", holdout="n>1e9", bootstrap=20)
    assert isinstance(found["few"], NoFit) and found["a"].parameters


def test_rows_without_a_cluster_stand_alone(frame: pd.DataFrame) -> None:
    """Nobody said that they share anything: the same intervals as with a name for each."""
    mixed = frame.assign(named=[f"c{i // 2}" if i < 12 else np.nan for i in range(25)])
    alone = mixed.assign(named=mixed["named"].fillna(pd.Series([f"own{i}" for i in range(25)])))
    asked = {"law": "power", "x": "n", "y": "loss", "cluster": "named", "bootstrap": 50}
    assert analysis.fit(mixed, **asked).fit.intervals == analysis.fit(alone, **asked).fit.intervals
