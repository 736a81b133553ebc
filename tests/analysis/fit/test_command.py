"""``python -m analysis.fit`` on other people's tables: answers, and one line for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fit.__main__ import main

ROOT = Path(__file__).resolve().parents[3]
FIT = ["--law", "chinchilla", "--x", "params", "--d", "tokens", "--y", "loss"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A grid of runs of a known law with one per cent of noise."""
    n, d = (axis.ravel() for axis in np.meshgrid(np.geomspace(1e7, 1e10, 7), np.geomspace(1e9, 1e12, 7)))
    loss = 1.8 + 480 * n**-0.35 + 2000 * d**-0.37
    loss *= np.exp(np.random.default_rng(1).normal(0, 0.003, len(n)))
    path = tmp_path / "runs.csv"
    pd.DataFrame({"params": n, "tokens": d, "loss": loss, "seeds": 3}).to_csv(path, index=False)
    return path


def test_json_has_values_intervals_certificate_and_held_out_rows(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shape that scripts rely on, and the truth within the intervals; parquet gives the same."""
    words = [*FIT, "--bootstrap", "200", "--holdout", "params>3e9", "--json"]
    assert main([str(table), *words]) == 0
    printed = capsys.readouterr().out
    answer = json.loads(printed)
    assert set(answer["parameters"]) == {"E", "A", "B", "alpha", "beta"}
    for name, truth in {"E": 1.8, "alpha": 0.35, "beta": 0.37}.items():
        low, high = answer["parameters"][name]["interval"]
        assert low < truth < high
        assert low < answer["parameters"][name]["value"] < high
    assert answer["certificate"]["converged"] and answer["certificate"]["warnings"] == []
    assert answer["holdout"]["n_fit"] + answer["holdout"]["n"] == 49
    assert answer["holdout"]["mean_relative_error"] < 0.01
    parquet = table.with_suffix(".parquet")
    pd.read_csv(table).to_parquet(parquet)
    assert main([str(parquet), *words]) == 0
    assert capsys.readouterr().out == printed


def test_prediction_and_best_use(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten times beyond the table the truth lies in the interval; N* and D* are those of the true law."""
    at = ["--at", "1e11,1e13", "--budget", "1e23", "--bootstrap", "300"]
    assert main([str(table), *FIT, *at, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    low, high = answer["prediction"]["interval"]
    assert low < 1.8 + 480 * 1e11**-0.35 + 2000 * 1e13**-0.37 < high
    n = (0.35 * 480 / (0.37 * 2000)) ** (1 / 0.72) * (1e23 / 6) ** (0.37 / 0.72)
    low, high = answer["best_use"]["x"]["interval"]
    assert low < n < high
    assert answer["best_use"]["x"]["value"] * answer["best_use"]["d"]["value"] * 6 == pytest.approx(1e23)
    assert main([str(table), *FIT, *at]) == 0
    shown = capsys.readouterr().out
    assert "prediction: " in shown and "best use of 1e+23 FLOPs" in shown


def test_profiles_of_named_parameters(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Repeated or as a list: interval and curve in JSON, one line each in text; the truth lies inside."""
    words = [str(table), *FIT, "--huber", "inf", "--bootstrap", "0", "--profile", "E,alpha", "--profile", "beta"]
    assert main([*words, "--json"]) == 0
    profiles = json.loads(capsys.readouterr().out)["profiles"]
    assert list(profiles) == ["E", "alpha", "beta"]
    for name, truth in {"E": 1.8, "alpha": 0.35, "beta": 0.37}.items():
        one = profiles[name]
        assert one["low"] < truth < one["high"] and one["open"] == []
        curve = dict(zip(one["curve"]["value"], one["curve"]["f"], strict=True))
        assert all((f <= one["limit"]) == (one["low"] <= value <= one["high"]) for value, f in curve.items())
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert f"profile of E: {profiles['E']['low']:.5g} .. {profiles['E']['high']:.5g} (95%)" in shown


def test_each_size_is_left_out_and_predicted(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--cluster`` makes it sizes: a range of every parameter, who moves it most, and each size's error."""
    words = [str(table), *FIT, "--huber", "inf", "--bootstrap", "0", "--cluster", "params", "--holdout", "each"]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    sizes = set(pd.read_csv(table, dtype=str)["params"])
    assert set(answer["leave_one_out"]) == {"E", "A", "B", "alpha", "beta"}
    low, high = answer["leave_one_out"]["alpha"]
    assert low < answer["parameters"]["alpha"]["value"] < high
    assert answer["moved_most_by"]["alpha"] in sizes and answer["indispensable"] == []
    assert set(answer["holdout"]["each"]) == sizes
    assert all(one["n"] == 7 and one["mean_relative_error"] < 0.02 for one in answer["holdout"]["each"].values())
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "held out: each of 7 from the others: mean error" in shown and "without any one params" in shown


def test_table_for_people(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json: parameters with intervals, what was minimised, how the starts agree."""
    assert main([str(table), *FIT, "--bootstrap", "100", "--weights", "seeds", "--cluster", "params"]) == 0
    shown = capsys.readouterr().out
    assert "E + A N^-alpha + B D^-beta" in shown and "starts agree" in shown and "95% interval" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--law", "chinchila"], "did you mean 'chinchilla'"),
        (["--profile", "E,alpa"], "no such parameter; did you mean 'alpha'? (it has E, A, B, alpha, beta)"),
        (["--y", "los"], "no column 'los'; did you mean 'loss'?"),
        (["--holdout", "params"], "give COLUMN>VALUE"),
        (["--holdout", "params=3"], "no row is held out"),
        (["--where", "params=3"], "where=params=3: no row meets it (there are: "),
        (["--where", "parms=3"], "did you mean 'params'"),
        (["--where", "params>big"], "'big' is not a number"),
        (["--holdout", "parms>3"], "did you mean 'params'"),
        (["--holdout", "params>big"], "'big' is not a number"),
        (["--huber", "0"], "huber=0: must be at least 1e-12"),
        (["--huber", "nan"], "huber=nan: must be a finite number"),
        (["--holdout", "params>1e99"], "no row is held out"),
        (["--holdout", "params>0"], "0 distinct places"),
        (["--at", "1e9"], "needs X,D"),
        (["--at", "1e9,big"], "at=1e9,big: expected a number"),
        (["--at", "1e9,-1"], "at=1e9,-1: must be from 1e-30 to 1e+30"),
        (["--at", "inf,1e9"], "at=inf,1e9: must be from"),
        (["--at", "nan,1e9"], "at=nan,1e9: must be from"),
        (["--at", "1e308,1e9"], "at=1e308,1e9: must be from"),
        (["--at", "1e9,"], "at=1e9,: expected a number"),
        (["--at", "1_0,1e9"], "at=1_0,1e9: expected a number"),
        (["--at", "\u0661,1e9"], "expected a number"),
        (["--bootstrap", "\u0661"], "expected a whole number"),
        (["--budget", "0"], "budget=0: must be from"),
        (["--budget", "inf"], "budget=inf: must be from"),
        (["--budget", "nan"], "budget=nan: must be from"),
        (["--seed", "-1"], "seed=-1: must be at least 0"),
        (["--seed", "9" * 5000], "expected a whole number"),
        (["--seed", "1.5"], "seed=1.5: expected a whole number"),
        (["--bootstrap", "-1"], "bootstrap=-1: must be at least 0"),
        (["--bootstrap", "1e12"], "bootstrap=1e12: expected a whole number"),
        (["--bootstrap", "100000000"], "must be at most 100000"),
        (["--confidence", "95"], "confidence=95: must be at most 0.9999"),
        (["--confidence", "nan"], "confidence=nan: must be a finite number"),
        (["--sed", "1"], "unknown key 'sed'; did you mean 'seed'?"),
        (["--residual", "cubic"], "residual=cubic: not one of log, plain"),
        (["--law", "power"], "law 'power' has no such variable"),
        (["--law", "repeated"], "needs unique=COLUMN"),
        (["--cluster", "size"], "no column 'size'"),
    ],
)
def test_mistakes_are_one_line(table: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    """The word at fault and what would be right, exit code 2, no traceback."""
    assert main([str(table), *FIT, *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert message in shown.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"params,tokens,loss\n1,2,3\n2,x,4\n", "line 3, column 'tokens': 'x' is not a number"),
        (b"", "it is empty"),
        (b"params,tokens,loss\n1,2,3\n", "no fit: 1 distinct place"),
        (b"params,tokens,loss\n" + b"1,2,3\n" * 9, "no fit: 1 distinct place"),
        (
            b"params,tokens,loss\n" + b"".join(b"%d,%d,-1\n" % (i, i * i) for i in range(1, 9)),
            "line 2, column 'loss': -1 is not a number above 0",
        ),
        (b"params,tokens,loss\n1,2,3,4\n1,2,3\n1,2,3,4,5\n", "line 2 has 4 cells and the header, line 1, has 3 cells"),
        (bytes(range(128, 256)), "not UTF-8 text"),
        (b"params;tokens;loss\n1;2;3\n", "separated by commas"),
        (b"params,tokens,loss\n1,2,3\n4,5", "line 3 has 2 cells and the header, line 1, has 3 cells"),
    ],
)
def test_damaged_tables_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    """File and line of a cell that is no number; what is missing of a table that cannot carry the law."""
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    assert main([str(path), *FIT]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and message in shown.err and shown.err.count("\n") == 1


def test_missing_cells_are_left_out(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Empty and nan cells take their row out and change nothing else."""
    words = [*FIT, "--bootstrap", "0", "--json"]
    assert main([str(table), *words]) == 0
    whole = json.loads(capsys.readouterr().out)
    table.write_text(table.read_text() + "1e9,,3.1,3\n1e9,1e10,nan,3\n")
    assert main([str(table), *words]) == 0
    holed = json.loads(capsys.readouterr().out)
    assert holed["certificate"].pop("left_out") == 2 and whole["certificate"].pop("left_out") == 0
    assert holed == whole


def test_torch_is_never_imported() -> None:
    """The command answers at once because nothing heavy is loaded."""
    code = "import sys, analysis.fit.__main__; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
