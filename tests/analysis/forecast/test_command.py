"""``python -m analysis.forecast`` on other people's tables: answers, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.forecast import Forecast, forecast
from analysis.forecast.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
COLUMNS = ["--x", "images", "--y", "error"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two learning curves of known laws with a little noise, and one of three points."""
    rng = np.random.default_rng(1)
    x = np.geomspace(1e6, 1e9, 12)
    small = 0.3 + 20 * x**-0.3
    large = 0.1 + 30 * x**-0.3
    rows = [("small", a, b) for a, b in zip(x, small * np.exp(rng.normal(0, 0.005, 12)), strict=True)]
    rows += [("large", a, b) for a, b in zip(x, large * np.exp(rng.normal(0, 0.005, 12)), strict=True)]
    rows += [("new", a, b) for a, b in zip(x[:3], small[:3], strict=True)]
    path = tmp_path / "curves.csv"
    pd.DataFrame(rows, columns=["model", "images", "error"]).to_csv(path, index=False)
    return path


def test_json_has_a_forecast_or_a_reason_for_every_curve(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The shape that scripts rely on, the truth within the intervals, the same numbers as from Python."""
    assert main([str(table), *COLUMNS, "--at", "2e9,4e9", "--by", "model", "--json"]) == 0
    small, large, new = json.loads(capsys.readouterr().out)
    assert [one["group"] for one in (small, large, new)] == ["small", "large", "new"]
    assert new == {"group": "new", "reason": "3 distinct x; a forecast needs 6, to fit 5 and to test on one"}
    for one, floor, scale in ((small, 0.3, 20), (large, 0.1, 30)):
        for prediction in one["predictions"]:
            low, high = prediction["interval"]
            assert low < floor + scale * prediction["at"] ** -0.3 < high
            assert low < prediction["value"] < high
        assert sum(one["shares"].values()) == pytest.approx(1)
        assert one["beyond"] == pytest.approx(4) and one["origins"] == 7 and one["confidence"] == 0.95
    rows = pd.read_csv(table).query("model == 'large'")
    answer = forecast(rows["images"], rows["error"], [2e9, 4e9])
    assert isinstance(answer, Forecast)
    assert [one["value"] for one in large["predictions"]] == pytest.approx(answer.y.tolist())


def test_by_is_the_word_of_all_commands(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``by`` tells curves apart as ``group``, its earlier name, does; both together are refused."""
    words = [str(table), *COLUMNS, "--at", "2e9", "--at", "4e9", "--json"]
    assert main([*words, "--by", "model"]) == 0
    by = json.loads(capsys.readouterr().out)
    assert main([*words, "--group", "model"]) == 0
    assert json.loads(capsys.readouterr().out) == by and len(by) == 3
    assert main([*words, "--by", "model", "--group", "model"]) == 2
    assert "say the same" in capsys.readouterr().err


def test_frontier_takes_only_the_best_runs(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --frontier a run that a cheaper one beats has no effect; the largest x may then be smaller."""
    rows = pd.read_csv(table).query("model == 'large'")
    rows.to_csv(table, index=False)
    words = [str(table), *COLUMNS, "--at", "2e9", "--json"]
    assert main([*words, "--frontier"]) == 0
    clean = json.loads(capsys.readouterr().out)
    worse = rows.assign(images=rows["images"] * 1.1, error=rows["error"] * 1.5)
    pd.concat([rows, worse]).to_csv(table, index=False)
    assert main([*words, "--frontier"]) == 0
    assert json.loads(capsys.readouterr().out) == clean
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) != clean


def test_table_for_people(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json: forecasts with intervals and forms, how they were tested, why a curve has none."""
    assert main([str(table), *COLUMNS, "--at", "2e9", "--by", "model", "--confidence", "0.9"]) == 0
    shown = capsys.readouterr().out
    assert "90% interval" in shown and "7 rolling origins, tested up to" in shown
    assert "new: no forecast: 3 distinct x" in shown


def test_names_of_curves_are_text(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Curves named alike but for what stands in brackets are told apart, and no name is a mistake of markup."""
    names = {"small": "ViT-B [v1]", "large": "ViT-B [v2]", "new": "[/x] :smile:"}
    rows = pd.read_csv(table)
    rows.assign(model=rows["model"].map(names)).rename(columns={"model": "[b]model"}).to_csv(table, index=False)
    assert main([str(table), *COLUMNS, "--at", "2e9", "--by", "[b]model"]) == 0
    shown = capsys.readouterr().out
    assert all(shown.count(name) == 2 for name in ("ViT-B [v1]", "ViT-B [v2]"))
    assert "[b]model" in shown and "[/x] :smile:: no forecast" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--y", "eror"], "no column 'eror'; did you mean 'error'?"),
        (["--by", "modle"], "did you mean 'model'"),
        (["--at", "far"], "at=far: expected a number"),
        (["--at", "1e9,-2"], "at=1e9,-2: must be from"),
        (["--at", "nan"], "at=nan: must be from"),
        (["--at", "inf"], "at=inf: must be from"),
        (["--at", "1e6"], "no forecast: every place asked for must lie beyond the largest x, 1e+09"),
        (["--at", "1e15"], "span a factor of 1000 in x"),
        (["--confidence", "95"], "confidence=95: must be at most 0.9999"),
        (["--x", "model"], "line 2, column 'model': 'small' is not a number"),
    ],
)
def test_mistakes_are_one_line(table: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """The word at fault and what would be right, exit code 2, no traceback."""
    assert main([str(table), *COLUMNS, "--at", "2e9", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert message in shown.err


def test_a_table_without_rows_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns alone carry no forecast."""
    path = tmp_path / "empty.csv"
    path.write_text("images,error\n")
    for group in ([], ["--by", "images"]):
        assert main([str(path), *COLUMNS, "--at", "2e9", *group]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_torch_is_never_imported() -> None:
    """The command answers at once because nothing heavy is loaded."""
    code = "import sys, analysis.forecast.__main__; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
