"""``python -m analysis.chain`` on other people's tables: answers, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.chain.__main__ import main

LINKS = ["--x", "params", "--through", "loss", "--y", "error", "--second", "power"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three seeds of ten sizes: loss = 0.3 + 30 N^-0.25 and error = 0.3 loss^1.5, with noise."""
    rng = np.random.default_rng(2)
    n = np.repeat(np.geomspace(1e5, 1e9, 10), 3)
    loss = (0.3 + 30 * n**-0.25) * np.exp(rng.normal(0, 0.01, 30))
    error = 0.3 * loss**1.5 * np.exp(rng.normal(0, 0.01, 30))
    path = tmp_path / "runs.csv"
    pd.DataFrame({"params": n, "tokens": n[::-1], "loss": loss, "error": error}).to_csv(path, index=False)
    return path


def test_json_has_both_links_the_direct_law_and_every_step(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shape that scripts rely on, and the truth at ten times the largest size within the chain's interval."""
    words = ["--at", "1e10", "--holdout", "params>3e8", "--cluster", "params", "--bootstrap", "200", "--huber", "inf"]
    assert main([str(table), *LINKS, *words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [answer[name]["law"] for name in ("first", "second", "direct")] == ["offset", "power", "offset"]
    low, high = answer["prediction"]["chain"]["interval"]
    assert low < 0.3 * (0.3 + 30 * 1e10**-0.25) ** 1.5 < high
    assert answer["prediction"]["beyond"] is True
    assert set(answer["holdout"]) == {"first", "second", "direct", "chain"}
    assert answer["holdout"]["chain"]["n"] == 6 and answer["holdout"]["chain"]["n_fit"] == 24
    assert answer["holdout"]["chain"]["mean_relative_error"] < 0.05


def test_table_for_people(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json: both links by name, the steps of the test, and that the second link is extrapolated."""
    assert main([str(table), *LINKS, "--at", "1e10", "--holdout", "params>3e8", "--bootstrap", "30"]) == 0
    shown = capsys.readouterr().out
    for expected in ("first link: loss = E + A x^-alpha", "error along the chain: mean error", "note: the second link"):
        assert expected in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--through", "los"], "no column 'los'; did you mean 'loss'?"),
        (["--second", "chinchilla"], "second=chinchilla: the second law must read the loss alone"),
        (["--second", "powr"], "second=powr: no such law; did you mean 'power'?"),
        (["--first", "chinchilla", "--d", "tokens", "--direct", "power"], "direct=power: must read what first="),
        (["--first", "chinchilla"], "first=chinchilla needs d=COLUMN"),
        (["--holdout", "params>1e12"], "holdout=params>1e12: no row with all values is held out"),
        (["--holdout", "params>2e5"], "holdout=params>2e5: first link: 1 distinct place"),
        (["--at", "0"], "at=0: must be from 1e-30"),
        (["--at", "1e9,1e9"], "law 'offset' needs X"),
    ],
)
def test_every_mistake_is_one_line(
    words: list[str], message: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line that names what is wrong and what would be right."""
    assert main([str(table), *LINKS, *words, "--bootstrap", "0"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and message in printed.err


@pytest.mark.filterwarnings("error")
def test_a_prediction_beyond_the_range_of_numbers_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A law that leaves it gives inf in text and null in JSON, without a warning or a traceback."""
    x = np.geomspace(1, 30, 12)
    path = tmp_path / "steep.csv"
    pd.DataFrame({"params": x, "loss": x**19, "error": x**19 * 1.5}).to_csv(path, index=False)
    words = [str(path), *LINKS, "--first", "power", "--at", "1e30", "--bootstrap", "30"]
    assert main(words) == 0
    assert "prediction of loss: inf" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"]["chain"]["value"] is None


def test_parameters_of_a_link_are_restricted_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--bound second.span<=`` and its siblings reach that law alone; a name without a link is one line."""
    x = np.geomspace(1e6, 1e9, 12)
    loss = 1 + 40 * x**-0.25
    error = 0.1 + 0.8 / (1 + np.exp(-3 * (loss - 1.6)))
    path = tmp_path / "runs.csv"
    pd.DataFrame({"n": x, "loss": loss, "error": error}).to_csv(path, index=False)
    words = [str(path), "--x", "n", "--through", "loss", "--y", "error", "--huber", "inf", "--bootstrap", "0", "--json"]
    words += ["--direct", "power"]
    assert main([*words, "--fix", "first.E=1,second.low=0.1", "--bound", "second.span<=0.7"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["first"]["parameters"]["E"]["fixed"] and answer["second"]["parameters"]["low"]["fixed"]
    assert answer["second"]["certificate"]["stopped"] == {"span": 0.7}
    assert main([*words, "--fix", "E=1"]) == 2
    assert "LINK.NAME" in capsys.readouterr().err
