"""Watching: one report at first, one after each change, an end when all tasks have ended or on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import Child
from study_files import write_status

from analysis.reporting.build import fingerprint, watch

MakeStudy = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


def test_it_rebuilds_after_changes_only(make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two looks without a change nothing is built; what the report itself writes is no change."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    log = path / "runs" / "micro-pretrain-s0" / "pretrain" / "metrics.jsonl"
    built: list[int] = []
    slept: list[float] = []

    def rebuild() -> bool:
        built.append(len(slept))
        (path / "report.html").write_text(str(built))
        return len(built) < 3

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) in (4, 8):
            log.write_text(log.read_text() + "\n")

    monkeypatch.setattr(time, "sleep", sleep)
    watch([path], rebuild)
    assert built == [0, 4, 8]


def test_every_file_that_a_report_reads_is_seen(make_study: MakeStudy) -> None:
    """A new status, a new log line and a new run each change the fingerprint."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    seen = [fingerprint([path])]
    write_status(path / "runs" / "micro-pretrain-s0" / "classify", "running", 7)
    seen.append(fingerprint([path]))
    write_status(path / "runs" / "new" / "pretrain", "running", 1)
    seen.append(fingerprint([path]))
    assert seen[0] != seen[1] != seen[2]
    assert seen[2] == fingerprint([path])


def test_ctrl_c_leaves_quietly(make_study: MakeStudy) -> None:
    """P12: a study that goes on is watched until Ctrl-C, which ends with 0, a whole page and no traceback."""
    path = make_study(sizes={"micro": 98_304}, scratch=False)
    write_status(path / "runs" / "micro-pretrain-s0" / "segment", "running", 7)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "analysis.report", str(path), "watch=true"]
    watching = Child(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    line = watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=60)
    assert (watching.returncode, errors) == (0, "")
    assert "2 of 3 tasks finished" in line
    assert (path / "report.html").read_text().rstrip().endswith("</html>")
    assert not list(path.glob("*.tmp*"))


def test_a_finished_study_needs_no_watching(make_study: MakeStudy, capsys: pytest.CaptureFixture[str]) -> None:
    """watch=true on a study whose tasks have all ended writes one report and ends."""
    from analysis.report import main

    path = make_study(sizes={"micro": 98_304}, scratch=False)
    assert main([str(path), "watch=true"]) == 0
    assert capsys.readouterr().out.count("3 of 3 tasks finished") == 1
