"""``python -m analysis.isoflop`` on other people's tables: published numbers, and one line for every mistake."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.isoflop.__main__ import main

WORDS = ["--c", "budget", "--n", "params", "--y", "loss"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six sizes at four budgets of a known surface, N* ~ C^0.5, about sizes that grow a little faster than the best."""
    c = np.repeat(np.geomspace(1e16, 1e19, 4), 6)
    n = np.tile(np.geomspace(0.2, 5, 6), 4) * 3e6 * (c / 1e16) ** 0.55
    loss = 1.8 + 480 * n**-0.3 + 2000 * (c / (6 * n)) ** -0.3
    path = tmp_path / "runs.csv"
    pd.DataFrame({"budget": c, "params": n, "loss": loss, "name": "x"}).to_csv(path, index=False)
    return path


def test_llama_3_as_published(reference_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Approach 2 of the Llama 3 runs: N* ~ C^0.4632, D* ~ C^0.5368; a budget of six sizes is open."""
    raw = pd.read_csv(reference_data / "isoflops_openathena" / "isoflops_raw.csv")
    path = tmp_path / "llama.csv"
    raw[raw["experiment"] == "llama_3__raw_loss"].to_csv(path, index=False)
    assert main([str(path), *WORDS, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    for name, published in {"n_exponent": 0.4632, "d_exponent": 0.5368}.items():
        exponent = answer["law"][name]
        assert exponent["value"] == pytest.approx(published, abs=5e-5)
        assert exponent["interval"][0] < published < exponent["interval"][1]
    assert answer["law"]["budgets"] == 10 and abs(answer["bias"]) < 0.02
    (wide,) = [one for one in answer["optima"] if one["reason"]]
    assert wide["budget"] == 3e21 and wide["interval"] == [None, None]
    assert main([str(path), *WORDS]) == 0
    shown = capsys.readouterr().out
    assert "N* ~ C^0.4632 (" in shown and "open .. open" in shown and "without noise: " in shown


def test_chinchilla_is_as_sure_as_its_authors(
    reference_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hoffmann et al. 2022, table 2: 0.49, 80 % of resamples in 0.462 .. 0.534. Read from their figure: the same."""
    raw = pd.read_csv(reference_data / "isoflops_openathena" / "isoflops_raw.csv")
    path = tmp_path / "chinchilla.csv"
    raw[raw["experiment"] == "epochai_chinchilla__massivetext__chinchilla"].to_csv(path, index=False)
    assert main([str(path), *WORDS, "--json"]) == 0
    exponent = json.loads(capsys.readouterr().out)["law"]["n_exponent"]
    assert exponent["value"] == pytest.approx(0.49, abs=0.005)
    low, high = exponent["interval"]
    narrower = 1.4398 / 2.4469  # Student's t of 80 % and 95 % at the six degrees of freedom of eight minima
    assert narrower * (high - low) == pytest.approx(0.534 - 0.462, rel=0.15)


def test_porians_exponents_lie_in_the_intervals(
    reference_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Porian et al. 2024, tuned hyperparameters: 0.497, between 0.491 and 0.505, through Akima minima."""
    raw = pd.read_csv(reference_data / "porian" / "isoflop_points.csv")
    keys = ["dataset", "hparams", "decay", "param_count"]
    path = tmp_path / "porian.csv"
    raw[(raw[keys] == ["rw", "tuned", "const", "standard"]).all(axis=1)].to_csv(path, index=False)
    words = [str(path), "--c", "flops", "--n", "params", "--y", "loss", "--minimum", "akima", "--json"]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    low, high = answer["law"]["n_exponent"]["interval"]
    assert low < 0.491 and high > 0.505
    assert {one["interval"] for one in answer["optima"]} == {None}


def test_an_exact_surface_leaves_its_bias_alone(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without noise the parabolas' exponent less the bias is the surface's own; a row without loss is counted."""
    with table.open("a") as file:
        file.write("1e16,1e8,,x\n")
    assert main([str(table), *WORDS, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["law"]["n_exponent"]["value"] - answer["bias"] == pytest.approx(0.5, abs=1e-6)
    assert abs(answer["bias"]) > 1e-4
    assert answer["left_out"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--y": "los"}, "no column 'los'; did you mean 'loss'?"),
        ({"--y": "name"}, "line 2, column 'name': 'x' is not a number"),
        ({"--n": "zero"}, "line 3, column 'zero': 0 is not a number above 0"),
        ({"--c": "empty"}, "no row has all of empty, params, loss"),
    ],
)
def test_mistakes_are_one_line(
    table: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, str], message: str
) -> None:
    """What is wrong, and where, without a traceback; exit code 2."""
    rows = pd.read_csv(table)
    rows.assign(zero=[1.0, 0.0] * (len(rows) // 2), empty="").to_csv(table, index=False)
    words = {"--c": "budget", "--n": "params", "--y": "loss"} | changes
    assert main([str(table), *(word for pair in words.items() for word in pair)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_too_few_budgets_say_why(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two budgets give two minima, no law, and no traceback."""
    rows = pd.read_csv(table)
    rows[rows["budget"] < 5e17].to_csv(table, index=False)
    assert main([str(table), *WORDS]) == 0
    assert "no law: 2 budgets have a minimum, 3 are needed" in capsys.readouterr().out


def test_many_budgets_without_a_minimum_are_counted(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sixty budgets of falling losses: their one reason is told once with its count, not sixty times."""
    c = np.repeat(np.geomspace(1e16, 1e19, 60), 6)
    n = np.tile(np.geomspace(1, 5, 6), 60) * 1e5
    pd.DataFrame({"budget": c, "params": n, "loss": 1 + 1e4 / n}).to_csv(table, index=False)
    assert main([str(table), *WORDS]) == 0
    shown = capsys.readouterr().out
    law = shown[shown.index("no law: ") :]
    assert "60 of 60: the minimum is not between" in " ".join(law.split())
    assert law.count("not between") <= 2


def test_what_is_no_parabola_says_so(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine sizes over a 45-fold range of an exact surface are no parabola; over a narrow range with noise they are."""
    for reach, noise, expected in ((45.0, 0.0, 4), (3.0, 0.003, 0)):
        c = np.repeat(np.geomspace(1e16, 1e19, 4), 9)
        n = np.tile(np.geomspace(reach**-0.5, reach**0.5, 9), 4) * 3e6 * (c / 1e16) ** 0.5
        loss = 1.8 + 480 * n**-0.3 + 2000 * (c / (6 * n)) ** -0.3
        loss = loss * np.exp(np.random.default_rng(0).normal(0, noise, len(n)))
        pd.DataFrame({"budget": c, "params": n, "loss": loss}).to_csv(table, index=False)
        assert main([str(table), *WORDS, "--json"]) == 0
        optima = json.loads(capsys.readouterr().out)["optima"]
        assert sum(one["misfit_p"] is not None and one["misfit_p"] < 0.01 for one in optima) == expected
        main([str(table), *WORDS])
        assert ("no parabola" in capsys.readouterr().out) == bool(expected)


def test_further_and_held_out_budgets(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """N* ahead by the law through the minima, and of the largest budget by that through the others."""
    words = [str(table), *WORDS, "--at", "1e20,1e21", "--holdout", "budget>5e18"]
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    law, held = answer["law"], answer["holdout"]
    for one, budget in zip(answer["predictions"], (1e20, 1e21), strict=True):
        assert one["n"] == pytest.approx(law["coefficient"] * budget ** law["n_exponent"]["value"])
        assert one["budget"] == budget and one["interval"][0] < one["n"] < one["interval"][1]
    assert len(held) == 1 and held[0]["measured"] == pytest.approx(answer["optima"][-1]["n"])
    assert abs(held[0]["relative_error"]) < 0.05
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "prediction at 1e+20: N* = " in shown and "held out at 1e+19: N* = " in shown
    found = re.search(r"N\* ~ C\^(\S+) \((\S+) \.\. (\S+)\), D\* ~ C\^(\S+) \((\S+) \.\. (\S+)\)", shown)
    assert found is not None
    size, data = (np.array([float(found[place]) for place in places]) for places in ((1, 2, 3), (4, 6, 5)))
    assert size + data == pytest.approx(np.ones(3), abs=2e-4)  # what does not go into size goes into data
    assert main([str(table), *WORDS, "--holdout", "budget>1e30"]) == 2
    assert "no budget that has a minimum is held out" in capsys.readouterr().err
