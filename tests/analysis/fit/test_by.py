"""Several answers of one table: ``--by`` a column, and several places to predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.chain.__main__ import main as chain
from analysis.fit.__main__ import main as fit
from analysis.isoflop.__main__ import main as isoflop


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two data sets with laws of their own, a third with too few rows, and rows that belong to none."""
    x = np.geomspace(1e6, 1e9, 8)
    parts = []
    for name, alpha in (("b", 0.2), ("a", 0.3), ("few", 0.3), ("", 0.3)):
        loss = 20 * x**-alpha * np.exp(np.random.default_rng(1).normal(0, 0.01, 8))
        part = pd.DataFrame({"data": name, "n": x, "loss": loss, "error": 0.5 * loss**0.5})
        parts.append(part.iloc[:2] if name == "few" else part)
    path = tmp_path / "runs.csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


def test_each_value_has_the_answer_of_its_own_rows(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the rows, the same as with ``--where``; what cannot be fitted has its reason."""
    words = [str(table), "--law", "power", "--x", "n", "--y", "loss", "--huber", "inf", "--at", "1e10", "--at", "1e11"]
    assert fit([*words, "--by", "data", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["by"] == "data" and list(answer["groups"]) == ["b", "a", "few"]
    assert "needs 3" in answer["groups"]["few"]["reason"]
    for name in ("a", "b"):
        assert fit([*words, "--where", f"data={name}", "--json"]) == 0
        alone = json.loads(capsys.readouterr().out)
        assert answer["groups"][name] == alone
        assert [one["at"]["x"] for one in alone["predictions"]] == [1e10, 1e11]
        assert alone["prediction"] == alone["predictions"][0]
        low, high = alone["predictions"][1]["interval"]
        assert low < alone["predictions"][1]["value"] < high
    assert fit([*words, "--by", "data"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("data = b") < shown.index("data = a") < shown.index("data = few")
    assert "prediction at 1e+10: " in shown and "prediction at 1e+11: " in shown


def test_the_other_commands_have_it_too(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chain and the minima of equal compute for each value."""
    words = [str(table), "--x", "n", "--through", "loss", "--y", "error", "--first", "power", "--second", "power"]
    assert chain([*words, "--huber", "inf", "--by", "data", "--at", "1e10", "--at", "1e11", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert groups["a"]["first"]["parameters"]["alpha"]["value"] == pytest.approx(0.3, abs=0.01)
    assert len(groups["b"]["predictions"]) == 2 and "reason" in groups["few"]
    parts = []
    for name, a in (("one", 0.5), ("two", 0.4)):
        for budget in np.geomspace(1e18, 1e21, 4):
            n = 3e-2 * budget**a * np.geomspace(0.3, 3, 6)
            loss = 2 + 0.1 * np.log(n / (3e-2 * budget**a)) ** 2
            parts.append(pd.DataFrame({"set": name, "c": budget, "n": n, "loss": loss}))
    path = tmp_path / "budgets.csv"
    pd.concat(parts).to_csv(path, index=False)
    assert isoflop([str(path), "--c", "c", "--n", "n", "--y", "loss", "--by", "set", "--json"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert groups["one"]["law"]["n_exponent"]["value"] == pytest.approx(0.5)
    assert groups["two"]["law"]["n_exponent"]["value"] == pytest.approx(0.4)


def test_rows_at_the_best_value_of_a_tuned_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each size at its best rate, with all its seeds, is what a table of these rows alone says; scores likewise."""
    rng = np.random.default_rng(0)
    rows = [
        {"n": n, "lr": lr, "loss": 20 * n**-0.2 * (1 + 0.1 * abs(i - best)) * np.exp(rng.normal(0, 1e-3))}
        for best, n in enumerate(np.geomspace(1e6, 1e9, 4))
        for i, lr in enumerate((1e-3, 2e-3, 4e-3, 8e-3))
        for _ in range(2)
    ]
    frame = pd.DataFrame(rows)
    best = frame.iloc[[8 * size + 2 * size + seed for size in range(4) for seed in range(2)]]
    path, alone = tmp_path / "tried.csv", tmp_path / "best.csv"
    frame.assign(score=-frame["loss"] + 3).to_csv(path, index=False)
    best.assign(score=-best["loss"] + 3).to_csv(alone, index=False)
    words = ["--law", "power", "--x", "n", "--huber", "inf", "--bootstrap", "0", "--json"]
    for more, y in ([["--tuned", "lr"], "loss"], [["--tuned", "lr", "--highest"], "score"]):
        assert fit([str(path), *words, "--y", y, *more]) == 0
        found = json.loads(capsys.readouterr().out)
        assert fit([str(alone), *words, "--y", y]) == 0
        expected = json.loads(capsys.readouterr().out)
        assert found["parameters"] == expected["parameters"] and found["certificate"]["n"] == 8
    assert fit([str(path), *words, "--y", "loss", "--highest"]) == 2
    assert "highest=true needs tuned=COLUMN" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--by", "dat"], "did you mean 'data'"),
        (["--by", "data", "--where", "data=few"], "needs 3"),
        (["--by", "data", "--at", "1,2"], "needs X"),
    ],
)
def test_mistakes_are_one_line(table: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A column that is not there, no answer for any value, and what no value could answer."""
    assert fit([str(table), "--law", "power", "--x", "n", "--y", "loss", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
