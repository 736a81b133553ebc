"""``~`` in any path of any command is the home folder: a shell leaves it alone behind a ``=``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from analysis import reporting as reports
from analysis.fit.__main__ import main as fit
from analysis.forecast.__main__ import main as forecast
from analysis.isoflop.__main__ import main as isoflop
from nepa_scale.config import overrides
from nepa_scale.data.prepare.__main__ import GRAMMAR as PREPARE
from nepa_scale.run_dir.run_folder import configure
from nepa_scale.utils.arguments import parse
from nepa_scale.visualise.settings import PictureSettings
from nepa_scale.weights.__main__ import GRAMMAR as WEIGHTS
from sweeps.jobs.jobs import Selection
from sweeps.settings.command_line import read_launch
from sweeps.status import main as status

REPOSITORY = Path(__file__).resolve().parents[1]
TYPED = ("data.root", "run_dir", "pretrain_dir", "init", "engine.ds_config", "checkpoint.branch_from")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own, and an empty folder to work in, which stays empty."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


@pytest.mark.parametrize("key", TYPED)
def test_settings_of_a_run(home: Path, key: str) -> None:
    """Typed, or in a file that is itself named so."""
    words = ["task=classify", "model=femto"]
    assert overrides.parse([*words, f"{key}=~/a/b"]).flat()[key] == str(home / "a" / "b")
    (home / "mine.yaml").write_text(yaml.safe_dump({key: "~/a/b"}))
    assert overrides.parse([*words, "config=~/mine.yaml"]).flat()[key] == str(home / "a" / "b")


def test_only_at_the_beginning(home: Path) -> None:
    """A ``~`` elsewhere, or before a name that nobody here has, is a letter like others."""
    for value in ("a~b", "a/~", "~nobody-of-this-name/x"):
        assert overrides.parse([f"data.root={value}"]).data.root == value
    assert overrides.parse(["data.root=~"]).data.root == str(home)


def test_folder_of_a_run(home: Path) -> None:
    """The folder that says the rest is found there."""
    overrides.save(overrides.parse(["model=pico"]), home / "runs" / "a" / "config.yaml")
    assert configure(["run_dir=~/runs/a"]).model.size == "pico"


def test_training_makes_no_folder_of_that_name(home: Path) -> None:
    """The whole command plans in the home folder and leaves the working folder empty."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "nepa_scale" / "train.py"), "run_dir=~/runs/a", "dry_run=true"],
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert str(home / "runs" / "a") in done.stdout
    assert list(Path().iterdir()) == []


def test_launch(home: Path) -> None:
    """Its own folders, and settings of its runs."""
    words = [
        "grid=isoflop",
        "study_dir=~/s",
        "predict=true",
        "predict_from=~/p",
        "optimum_from=~/o",
        "data.root=~/d",
    ]
    launch = read_launch(words)
    assert (launch.study_dir, launch.predict_from, launch.optimum_from) == (home / "s", home / "p", home / "o")
    assert ("data.root", str(home / "d")) in launch.pairs


@pytest.mark.parametrize("word", ["~/s", "study_dir=~/s"])
def test_commands_of_a_study(home: Path, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status, and those that choose tasks."""
    assert parse(Selection, [word]).study_dir == home / "s"
    assert status([word]) == 2
    assert str(home / "s") in capsys.readouterr().err


def test_report(home: Path) -> None:
    """The study and the files to write."""
    (home / "s").mkdir()
    request = reports.GRAMMAR.parse(["~/s", "markdown=~/a.md", "latex=~/a.tex"])
    assert (request.folders, request.markdown, request.latex) == ((home / "s",), home / "a.md", home / "a.tex")


def test_prepare(home: Path) -> None:
    """Source and root."""
    settings = PREPARE.parse(["folder", "source=~/a", "root=~/b", "name=c"])
    assert (getattr(settings, "source", None), settings.root) == (home / "a", home / "b")


def test_pictures(home: Path) -> None:
    """All three folders."""
    chosen = parse(PictureSettings, ["source=~/a", "images=~/b", "out=~/c"])
    assert (chosen.source, chosen.images, chosen.out) == (home / "a", home / "b", home / "c")


def test_weights(home: Path) -> None:
    """In and out."""
    given = WEIGHTS.parse(["import", "~/a", "~/b"])
    assert (given.source, given.out) == (str(home / "a"), home / "b")
    given = WEIGHTS.parse(["export", "~/a", "~/b", "--layout", "timm"])
    assert (given.source, given.out) == (home / "a", home / "b")


def test_tables(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of the commands that fit laws."""
    lines = ["n,c,loss", *(f"{10**i},{10 ** (i + 2)},{1 + 2.0**-i}" for i in range(1, 7))]
    (home / "t.csv").write_text("\n".join(lines) + "\n")
    assert fit(["~/t.csv", "--law", "power", "--x", "n", "--y", "loss", "--bootstrap", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    forecast(["~/t.csv", "--x", "n", "--y", "loss", "--at", "1e7"])
    isoflop(["~/t.csv", "--c", "c", "--n", "n", "--y", "loss"])
    assert "~" not in capsys.readouterr().err
