"""Files and folders that the sweep commands cannot use: one line and exit code 2, whatever is wrong with them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nepa_scale.utils.files import write_json

Run = Callable[..., "subprocess.CompletedProcess[str]"]
PLAN = {"schema": 1, "study": "demo", "grid": "model_size", "axes": [], "runs": []}
TASK = {"params_total": 2, "params_backbone": 1, "images": 5, "flops": 10, "memory_bytes": 1, "seconds": 6.0}
RUN = {"run_id": "femto-0", "label": "femto", "init": "pretrain", "values": {}, "tasks": {"pretrain": TASK}}


def refused(done: subprocess.CompletedProcess[str], path: str) -> None:
    """It says in one line that ``path`` is wrong."""
    assert (done.returncode, done.stderr.count("\n"), done.stderr[:7]) == (2, 1, "error: "), done.stderr
    assert path in done.stderr


@pytest.mark.parametrize("command", ["status.py", "cancel.py", "retry.py"])
def test_something_else_than_a_study(tmp_path: Path, run: Run, command: str) -> None:
    """A file for the folder, a folder for the plan, a folder for the cluster's file or a task's."""
    (tmp_path / "file").touch()
    refused(run(command, "file"), "file: 'file' is a file")
    refused(run(command, "file/below"), "'file' is a file")
    (tmp_path / "odd" / "plan.json").mkdir(parents=True)
    refused(run(command, "odd"), "plan.json: cannot be read")
    write_json(tmp_path / "out" / "plan.json", PLAN | {"runs": [RUN]})
    if command != "status.py":  # to which the files of the tasks are enough
        (tmp_path / "out" / "cluster.json").mkdir()
        refused(run(command, "out"), "cluster.json: cannot be read")
        (tmp_path / "out" / "cluster.json").rmdir()
    write_json(tmp_path / "out" / "cluster.json", {"kind": "local"})
    (tmp_path / "out" / "runs" / "femto-0" / "pretrain" / "status.json").mkdir(parents=True)
    refused(run(command, "out"), "status.json: Is a directory")


@pytest.mark.parametrize("home", ["/proc", "/dev/null"])
def test_a_home_that_cannot_be_written(run: Run, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    """A calibration keeps its figures; a plan does without. The remedy is named, and works."""
    words = ("study.sizes=[femto]", "study.tasks=[pretrain]", "study.scratch_control=false", "dry_run=true")
    monkeypatch.setenv("HOME", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    refused(run("launch.py", *words, "calibrate=true"), "XDG_CACHE_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    refused(run("launch.py", *words, "calibrate=true"), f"{home}/nepa_scale/calibration")
    assert run("launch.py", *words).returncode == 0


def test_a_user_without_name_or_home(run_process: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container may run as a number that no file knows."""
    words = ("study.sizes=[femto]", "study.tasks=[pretrain]", "study.scratch_control=false", "pretrain.steps=1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    script = tmp_path / "sitecustomize.py"
    script.write_text("import os, pwd\nos.environ.pop('HOME', None)\n\ndef no(_): raise KeyError\npwd.getpwuid = no\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert run_process("launch.py", *words, "dry_run=true", cold=True).returncode == 0
    refused(run_process("launch.py", *words, "calibrate=true", cold=True), "XDG_CACHE_HOME")


def test_no_folder_for_leases(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Queues that cannot agree on the machine would start nothing: said by the launch, not in a log."""
    words = ("study.sizes=[femto]", "study.tasks=[pretrain]", "study.scratch_control=false", "pretrain.steps=1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "somebody")
    (tmp_path / "nepa_scale-somebody").touch()
    refused(run("launch.py", *words), "nepa_scale-somebody")
    assert not (tmp_path / "studies").exists()
