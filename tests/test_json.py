"""``--json``: one document on standard output and nothing else, with the keys that docs/commands.md names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from law_studies import StudySpec, write_study

from analysis.chain.__main__ import main as chain
from analysis.fit.__main__ import main as fit
from analysis.forecast.__main__ import main as forecast
from analysis.isoflop.__main__ import main as isoflop
from analysis.optimum.__main__ import main as optimum
from nepa_scale.data.prepare.__main__ import main as prepare
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.placement.scaling import main as scaling
from nepa_scale.train import main as train
from sweeps.launch import main as launch
from sweeps.status import main as status

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def table(here: Path) -> Path:
    """Runs of five sizes at eight lengths; the error follows the loss."""
    rows = ["n,d,c,loss,error,lr"]
    for n in np.geomspace(1e6, 1e8, 5):
        for d in np.geomspace(1e9, 1e11, 8):
            loss = 1.8 + 480 * n**-0.35 + 2000 * d**-0.37
            rows.append(f"{n:g},{d:g},{6 * n * d:g},{loss:.6f},{0.2 * loss**0.7:.6f},{d / 1e12:g}")
    (here / "t.csv").write_text("\n".join(rows) + "\n")
    return here / "t.csv"


def document(capsys: Capture) -> Any:
    """What was printed, which must be one JSON document."""
    return json.loads(capsys.readouterr().out)


def test_a_plan_of_a_training(capsys: Capture) -> None:
    """What the task is, what it costs and where it goes."""
    assert train(["task=pretrain", "model.size=femto", "--dry-run", "--json"]) == 0
    told = document(capsys)
    assert set(told) == {"run_id", "run_dir", "task", "data_set", "cost", "placement", "warnings"}
    assert (told["task"], told["data_set"]) == ("pretrain", "digits")
    assert told["run_dir"] == f"runs/{told['run_id']}"
    assert told["cost"]["params_total"] > told["cost"]["params_backbone"] > 0
    assert told["placement"]["micro_batch_size"] * told["placement"]["accumulation"] == 64
    assert told["placement"]["fits"] is True and told["warnings"] == []
    assert train(["task=classify", "--dry-run", "json=true"]) == 0
    assert "pre-training" in " ".join(document(capsys)["warnings"])


def test_a_training_has_no_json_but_its_plan(capsys: Capture, here: Path) -> None:
    """One line, and nothing is begun; likewise a launch."""
    assert train(["task=pretrain", "--json"]) == 2
    assert launch(["--json"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("give dry_run=true, too\n") == 2
    assert list(here.iterdir()) == []


def test_the_json_switch_is_no_setting_of_a_run(capsys: Capture) -> None:
    """The run_id is that of the same words without it."""
    words = ["model.size=femto", "dry_run=true"]
    assert train(words) == 0
    plain = capsys.readouterr().out
    assert train([*words, "json=true"]) == 0
    assert f"of run {document(capsys)['run_id']} in" in plain


def test_a_plan_of_a_launch(capsys: Capture, here: Path) -> None:
    """The plan as its file has it, and the tasks that would be started."""
    assert launch(["--grid", "model_size", "study.sizes=[femto,pico]", "--study.tasks", "[pretrain,classify]",
                   "study.scratch_control=false", "--dry-run", "--json"]) == 0  # fmt: skip
    told = document(capsys)
    assert set(told) == {"study_dir", "plan", "to_do", "held_back", "learning_rates", "warnings"}
    assert told["study_dir"] == "studies/demo-model_size" and told["held_back"] == []
    runs = told["plan"]["runs"]
    assert {run["label"] for run in runs} == {"femto", "pico"}
    assert sorted(told["to_do"]) == sorted(f"{run['run_id']}/{task}" for run in runs for task in run["tasks"])
    assert list(here.iterdir()) == []


def test_how_a_study_stands(capsys: Capture, here: Path) -> None:
    """A list with an object for each task."""
    write_study(here / "study", StudySpec())
    assert status(["study", "--json"]) == 0
    told = document(capsys)
    assert told and {"run_id", "label", "task", "state", "step", "steps_total", "loss", "reason"} <= set(told[0])
    assert {task["state"] for task in told} <= {"finished", "failed", "planned"}


def test_predicted_scaling(capsys: Capture) -> None:
    """A row for each number of devices, efficiencies beside the first."""
    assert scaling(["--devices", "8,64", "model.size=giant", "--json"]) == 0
    told = document(capsys)
    assert [row["devices"] for row in told["rows"]] == [8, 64]
    assert told["rows"][0]["efficiency"] == 1 > told["rows"][1]["efficiency"] > 0
    assert told["rows"][0]["bound_by"] in ("compute", "memory", "communication", "data")
    assert told["batch_size"] == 4096 and told["rows"][1]["images_per_second"] > told["rows"][0]["images_per_second"]


def test_faults_of_a_data_set(capsys: Capture, here: Path) -> None:
    """No fault and code 0; each fault and code 1."""
    write_digits(here / "data", num_train=64, num_validation=10, image_size=32, shard_size=64)
    assert prepare(["verify", "--root", "data", "--name", "digits", "--json"]) == 0
    told = document(capsys)
    assert (told["data_set"], told["faults"]) == ("data/digits", []) and "74 images checked" in told["remarks"][0]
    (shard,) = (here / "data" / "digits").glob("*train*.tar")
    shard.write_bytes(shard.read_bytes()[:2000])
    assert prepare(["verify", "root=data", "name=digits", "json=true"]) == 1
    assert shard.name in document(capsys)["faults"][0]


@pytest.mark.slow(seconds=6)
def test_answers_of_tables(capsys: Capture, table: Path) -> None:
    """Every command that reads one; typed as words or as flags, the document is the same."""
    cases = [
        (fit, ["law=chinchilla", "x=n", "d=d", "y=loss", "bootstrap=0"], {"law", "parameters", "certificate"}),
        (chain, ["x=n", "through=loss", "y=error", "second=power", "bootstrap=0"], {"first", "second", "direct"}),
        (isoflop, ["c=c", "n=n", "y=loss"], {"optima", "law", "bias"}),
        (optimum, ["x=lr", "y=loss", "by=n"], {"curves", "law"}),
        (forecast, ["x=d", "y=loss", "by=n", "at=1e12"], {"group", "predictions"}),
    ]
    for command, words, keys in cases:
        assert command([str(table), *words, "--json"]) == 0
        told = document(capsys)
        assert keys <= set(told[0] if isinstance(told, list) else told)
        flags = [part for word in words for part in (f"--{word.partition('=')[0]}", word.partition("=")[2])]
        assert command(["json=true", *flags, str(table)]) == 0
        assert document(capsys) == told
