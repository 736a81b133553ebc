"""Chains whose links have rows of their own: final runs for the first, checkpoints and anchors for the second."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.chain import Laws, Runs, TwoStep, fit_two_step
from analysis.chain.__main__ import main
from analysis.fit.estimate import Options
from analysis.fit.loss import SQUARED
from analysis.laws import LAWS
from analysis.laws.law import Array

SIZES = np.geomspace(1e7, 1e9, 8)


def studies(rng: np.random.Generator, checkpoints: int = 10) -> tuple[Runs, Runs]:
    """Final runs of a power law in x, and checkpoints on the way to them that have the error of their loss."""
    final = 20 * SIZES**-0.1 * np.exp(rng.normal(0, 0.005, len(SIZES)))
    loss = (final[:, None] * np.linspace(1.6, 1.0, checkpoints)).ravel()
    names = np.repeat(np.arange(len(SIZES)), checkpoints)
    own = np.repeat(rng.normal(0, 0.003, len(SIZES)), checkpoints)
    error = 0.1 * loss**1.2 * np.exp(own + rng.normal(0, 0.003, len(loss)))
    x = np.repeat(SIZES, checkpoints)
    last = slice(checkpoints - 1, None, checkpoints)
    return (
        Runs(x[None, last], loss[last], error[last], clusters=names[last]),
        Runs(x[None], loss, error, clusters=names),
    )


def fitted(first: Runs, second: Runs | None) -> TwoStep:
    """Two power laws by squares."""
    power = LAWS["power"]
    chain = fit_two_step(Laws(power, power, power), first, Options(SQUARED, bootstrap=200), second)
    assert isinstance(chain, TwoStep)
    return chain


def test_each_link_is_that_of_its_rows() -> None:
    """The first and the direct law of the final runs, the second of the checkpoints, as each alone."""
    first, second = studies(np.random.default_rng(0))
    both, apart = fitted(first, None), fitted(first, second)
    assert apart.first.parameters == both.first.parameters and apart.direct.parameters == both.direct.parameters
    slope, intercept = np.polyfit(np.log(second.between), np.log(second.y), 1)
    assert apart.second.parameters["alpha"] == pytest.approx(-slope)
    assert np.log(apart.second.parameters["A"]) == pytest.approx(intercept)
    assert apart.reach[1] > both.reach[1]


def test_intervals_hold_a_further_run() -> None:
    """At ten times the largest size, 95 % intervals hold at least 85 % of further runs, and are not of everything."""
    rng, hits = np.random.default_rng(1), []
    for _ in range(40):
        chain = fitted(*studies(rng))
        band = chain.predict([[1e10]])
        loss = 20 * 1e10**-0.1 * np.exp(rng.normal(0, 0.005))
        hits.append(band.low[0] <= 0.1 * loss**1.2 * np.exp(rng.normal(0, 0.0042)) <= band.high[0])
        assert band.high[0] / band.low[0] < 1.2
    assert np.mean(hits) >= 0.85


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A file of checkpoints whose accuracy is a sigmoid of their loss, from 1 at no loss down to a quarter."""
    loss: Array = (12 * SIZES**-0.12)[:, None] * np.linspace(1.5, 1.0, 12)
    frame = pd.DataFrame({"n": np.repeat(SIZES, 12), "loss": loss.ravel(), "run": np.repeat(np.arange(len(SIZES)), 12)})
    frame["last"] = np.tile([False] * 11 + [True], len(SIZES))
    frame["accuracy"] = 0.25 + 0.75 / (1 + np.exp(3 * (frame["loss"] - 1.2)))
    path = tmp_path / "checkpoints.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.mark.slow(seconds=4)
def test_the_command_has_rows_and_anchors_for_each_link(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Final runs, all checkpoints and two anchors; held-out sizes are left out of both links; JSON says how many."""
    words = [str(table), "--x", "n", "--through", "loss", "--y", "accuracy", "--first", "power", "--second", "logistic"]
    words += ["--huber", "inf", "--residual", "plain", "--bootstrap", "50", "--cluster", "run", "--at", "1e10"]
    own = ["--first-where", "last=True", "--anchor", "0,0.98", "--anchor", "inf,0.25", "--bound", "second.C<=1"]
    assert main([*words, *own, "--holdout", "n>5e8", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["first"]["certificate"]["n"] == 8 and answer["second"]["certificate"]["n"] == 8 * 12 + 2
    assert answer["direct"]["certificate"]["n"] == 8
    assert answer["second"]["parameters"]["low"]["value"] == pytest.approx(0.25, abs=0.01)
    assert answer["holdout"]["chain"]["n"] == 2 and answer["holdout"]["chain"]["n_fit"] == 6
    assert abs(answer["holdout"]["chain"]["mean_relative_error"]) < 0.01
    low, high = answer["prediction"]["chain"]["interval"]
    assert low < answer["prediction"]["chain"]["value"] < high
    assert main([*words, *own]) == 0
    assert "prediction of accuracy along the chain" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--anchor", "1"], "anchor=1: give LOSS,Y"),
        (["--anchor", "1,0"], "anchor=1,0: must be from"),
        (["--anchor", "x,1"], "anchor=x,1: expected a number"),
        (["--second-where", "last=3"], "second_where=last=3: no row meets it"),
        (["--first-where", "lst=True"], "did you mean 'last'"),
    ],
)
def test_mistakes_are_one_line(table: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its flag."""
    assert main([str(table), "--x", "n", "--through", "loss", "--y", "accuracy", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
