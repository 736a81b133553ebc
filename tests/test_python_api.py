"""What notebooks call: the same answers as the commands, under names that are modules, too; and the notebook itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import warm
from law_studies import StudySpec, write_study

import analysis
import nepa_scale
import sweeps
from nepa_scale.utils.errors import ConfigError, RunError, UserError
from sweeps.launch import main as launch

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOK = DOCS / "notebook.ipynb"
SMALL = {"study.sizes": ["femto", "pico"], "study.tasks": ["pretrain"], "pretrain.steps": 2}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, whose studies wait for no other of this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_names_are_there_without_torch() -> None:
    """Importing the packages and planning wait for nothing heavy, and modules that are called stay modules."""
    code = """
import sys, nepa_scale, sweeps, analysis
assert not {"torch", "pandas", "hydra"} & set(sys.modules)
for function in (nepa_scale.train, sweeps.plan, sweeps.launch, analysis.fit, analysis.report, analysis.load_study):
    assert callable(function)
from nepa_scale import train
from sweeps.plan import plan
assert train.main(["--version"]) == 0 and plan.PLAN_NAME == "plan.json"
sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", [nepa_scale, sweeps, analysis])
def test_an_unknown_name_is_an_attribute_error(package: Any) -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = package.absent


def test_a_plan_is_that_of_the_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its runs, its costs and its table; nothing is created."""
    planned = sweeps.plan(settings=SMALL, seeds=2, budget={"device_hours": 100})
    words = ["study.sizes=[femto,pico]", "study.tasks=[pretrain]", "pretrain.steps=2", "seeds=2"]
    assert launch([*words, "dry_run=true", "json=true"]) == 0
    told = json.loads(capsys.readouterr().out)["plan"]
    assert [run.run_id for run in planned.plan.runs] == [run["run_id"] for run in told["runs"]]
    frame = planned.to_frame()
    assert list(frame["flops"]) == [run["tasks"]["pretrain"]["flops"] for run in told["runs"]]
    assert list(frame["label"]) == ["femto", "femto", "pico", "pico"] and set(frame["steps"]) == {2}
    assert "demo study, model_size grid: 4 runs" in repr(planned) and "to do: 4 of 4 tasks" in repr(planned)
    assert planned.study_dir == Path("studies/demo-model_size") and list(here.iterdir()) == []


def test_mistakes_are_raised_together() -> None:
    """With the lines that the commands print."""
    with pytest.raises(ConfigError) as caught:
        sweeps.plan("model_siz", settings=SMALL)
    assert "did you mean 'model_size'?" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        nepa_scale.train(model={"size": "nanoo"}, pretrain={"step": 3})
    assert ["did you mean" in line for line in caught.value.problems] == [True, True]
    with pytest.raises(UserError, match="absent: neither a run"):
        nepa_scale.load("absent")


@pytest.mark.slow(seconds=5)
def test_a_study_is_a_frame_and_a_page(here: Path) -> None:
    """The rows that the report writes, and the path of its page; a law fits as from the table's file."""
    study = write_study(here / "study", StudySpec(sizes={"pico": 10_000, "nano": 25_000, "micro": 98_304}))
    table = analysis.load_study(study)
    page = analysis.report(str(study))
    assert page == study / "report.html" and "micro" in page.read_text(encoding="utf-8")
    written = pd.read_parquet(study / "results.parquet")
    assert list(analysis.load_study(study, tried=True)["run_id"]) == list(written["run_id"])
    asked = {"law": "power", "x": "params_backbone", "y": "errors.top1", "where": "task=classify", "bootstrap": 0}
    ours, theirs = analysis.fit(table, **asked), analysis.fit(study / "results.csv", **asked)
    assert ours.parameters == pytest.approx(theirs.parameters)
    with pytest.raises(UserError, match="does not exist"):
        analysis.load_study(here / "absent")


def code_of(markdown: Path) -> str:
    """The Python of a page."""
    return "\n".join(re.findall(r"```python\n(.*?)```", markdown.read_text(encoding="utf-8"), re.DOTALL))


@pytest.mark.slow
def test_the_reference_trains_and_loads(here: Path) -> None:
    """The page's example; a failure of a training is an error with its reason."""
    import timm

    scope: dict[str, Any] = {}
    exec(code_of(DOCS / "reference.md"), scope)  # noqa: S102  our own page
    assert scope["run"].folder == Path("runs/first") and scope["run"].metrics["skill"] < 1
    assert isinstance(scope["model"], timm.models.Eva) and not scope["model"].training
    again = nepa_scale.load("runs/first")
    assert all((again.state_dict()[name] == value).all() for name, value in scope["model"].state_dict().items())
    with pytest.raises(RunError, match="milestone"):
        nepa_scale.train(model={"size": "femto"}, pretrain={"steps": 3, "milestones": {1: {"skill": 0.9}}})


def cells(notebook: Path) -> Iterator[str]:
    """The code cells of a notebook, in order."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    yield from ("".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code")


CHECKS = """
assert len(table) == 8 and table["errors.skill"].between(0, 1).all()
assert fit.parameters["alpha"] > 0 and axes.get_xlabel() == "params_backbone"
[ahead] = fit.predict(1_000_000).itertuples()
assert ahead.low < ahead.y < ahead.high < 1
"""


@pytest.mark.slow
def test_the_notebook_runs(here: Path) -> None:
    """Study, table, fit, plot and prediction, as it stands; what it keeps of its outputs is small."""
    assert NOTEBOOK.stat().st_size < 100_000
    code = "\n".join([*cells(NOTEBOOK), CHECKS])
    done = warm.run(["-c", code], kind=warm.WarmLauncher, cwd=here, env={**os.environ, "MPLBACKEND": "agg"})
    assert done.returncode == 0, done.stderr
    assert (here / "studies" / "notebook" / "report.html").is_file()
