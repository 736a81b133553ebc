"""``python -m analysis.optimum`` on other people's tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.optimum.__main__ import main

WORDS = ["--x", "lr", "--y", "loss", "--by", "params"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three sizes at six rates, best ~ params^-0.25."""
    lr, params = np.tile(np.geomspace(1e-4, 3.2e-3, 6), 3), np.repeat([1e6, 4e6, 16e6], 6)
    loss = 3 + 0.05 * np.log2(lr / (8e-4 * (params / 1e6) ** -0.25)) ** 2
    path = tmp_path / "sweep.csv"
    pd.DataFrame({"lr": lr, "params": params.astype(int), "loss": loss, "skill": 5 - loss}).to_csv(path, index=False)
    return path


@pytest.mark.slow(seconds=3)
def test_the_law_is_found(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Best values of each size and the power of the size; a row without a loss is counted."""
    with table.open("a") as file:
        file.write("1e-4,1000000,,\n")
    assert main([str(table), *WORDS, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["law"]["exponent"] == pytest.approx(-0.25, abs=1e-5) and answer["left_out"] == 1
    assert [one["best"] for one in answer["curves"]] == pytest.approx([8e-4, 8e-4 / 2**0.5, 4e-4], rel=1e-5)
    assert answer["form"] == {"power": 2, "tilt": 0} and answer["one_for_all"]["p_none"] < 1e-6
    assert main([str(table), *WORDS]) == 0
    assert "best lr ~ params^-0.2500" in capsys.readouterr().out


@pytest.mark.slow(seconds=3)
def test_scores_are_highest_where_losses_are_lowest(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``highest`` is the same as a loss turned over."""
    found = []
    for words in (["--y", "loss"], ["--y", "skill", "--highest"]):
        assert main([str(table), "--x", "lr", *words, "--by", "params", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["law"]["exponent"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)


def test_one_curve_needs_no_size(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --by all rows are one curve, and nothing is said of one value for all or of a law."""
    assert main([str(table), "--x", "lr", "--y", "loss", "--where", "params=1000000", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["curves"]) == 1 and answer["one_for_all"] is None and answer["law"] is None


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--x", "loos", "--y", "loss"], "loos"),
        (["--x", "lr", "--y", "loss", "--by", "lr"], "no size has 3 values"),
        (["--x", "lr", "--y", "loss", "--where", "params=3"], "params=3"),
    ],
)
def test_mistakes_are_named(table: Path, capsys: pytest.CaptureFixture[str], words: list[str], named: str) -> None:
    """Exit code 2 and one line."""
    assert main([str(table), *words]) == 2
    assert named in capsys.readouterr().err
