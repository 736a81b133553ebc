"""A wheel holds all that runs need: its commands work from an empty folder, without the checkout."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "nepa_scale", "sweeps", "analysis", "ds_configs")
DATA = (".yaml", ".json", ".csv", ".j2", ".css", ".js", ".typed")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

pytestmark = pytest.mark.slow


def done(*words: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed, in an environment that knows no checkout."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answer = subprocess.run(
        list(map(str, words)), cwd=cwd, env=clean, capture_output=True, text=True, timeout=500, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, folder / part)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder]
    done(sys.executable, "-m", "pip", "wheel", *options, folder, cwd=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that has the wheel and this environment's libraries."""
    folder = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    [packages] = (folder / "lib").glob("*/site-packages")
    # Paths of a .pth file are searched after the wheel's, and what is installed there as editable is not looked up.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    install = ["--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel]
    done(sys.executable, "-m", "pip", *install, cwd=folder)
    return folder / "bin"


def test_it_holds_every_file_of_the_packages(wheel: Path) -> None:
    """Code and data, at three names; the DeepSpeed files lie in a package."""
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("nepa_scale", "sweeps", "analysis")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", *DATA)
    }
    shipped = {f"nepa_scale/ds_configs/{path.name}" for path in (ROOT / "ds_configs").iterdir()}
    assert held == wanted | shipped


def test_a_study_runs_from_an_empty_folder(commands: Path, tmp_path: Path) -> None:
    """Plan, embedded data, training in jobs of submitit, report; and every command has a name."""
    assert set(SCRIPTS) <= {path.name for path in commands.iterdir()}
    where = done(commands / "python", "-c", "import nepa_scale; print(nepa_scale.__file__)", cwd=tmp_path)
    assert Path(where).is_relative_to(commands.parent)
    planned = json.loads(done(commands / "nepa-train", "--dry-run", "--json", "engine.ds_config=zero3", cwd=tmp_path))
    assert planned["placement"]["zero_stage"] == 3
    assert list(tmp_path.iterdir()) == []
    words = ["study.sizes=[femto]", "study.tasks=[pretrain,classify]", "pretrain.steps=4", "classify.steps=4"]
    words += ["study.scratch_control=false", "study.tuned={}", "classify.tuning_images=0"]
    done(commands / "nepa-prepare", "digits", "num_train=256", "num_validation=64", cwd=tmp_path)
    done(commands / "nepa-launch", "grid=model_size", *words, cwd=tmp_path)
    study = tmp_path / "studies" / "demo-model_size"
    tasks = json.loads(done(commands / "nepa-status", study, "--json", cwd=tmp_path))
    assert {task["state"] for task in tasks} == {"finished"}
    assert Path(done(commands / "nepa-report", study, cwd=tmp_path).splitlines()[-1]).name == "report.html"
    assert (study / "results.csv").is_file()
