"""A study's queue as a process of its own: it outlives its launcher, is shared, stopped, and never doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import psutil
import pytest
import warm
from plain_study import plain
from warm import WarmLauncher

from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.run_dir.status import holder
from nepa_scale.utils.files import read_json
from sweeps.jobs.task import mark_cancelled
from sweeps.local.leases import Leases

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).resolve().parents[3]
WORDS = (
    "study_dir=out",
    "data.root=data",
    "study.scratch_control=false",
    "study.tasks=[pretrain,classify]",
    "classify.steps=2",
    "log.tensorboard=false",
    "checkpoint.every=20",
    "cluster.slots=1",
    "cluster.threads_per_slot=1",  # two threads wait for one another wherever another test has a core
)


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of the test's own as far as slots go, and nothing left running on it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    write_digits(tmp_path / "data", num_train=64, num_validation=16, shard_size=32)
    yield
    runner = holder(tmp_path / "out" / "queue")
    if runner is not None:
        psutil.Process(runner.pid).terminate()


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def launch(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    """A launcher that is not waited for."""
    command = [sys.executable, str(ROOT / "sweeps" / "launch.py"), *plain([*WORDS, *words])]
    return WarmLauncher(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True)


def statuses(tmp_path: Path) -> dict[str, dict[str, object]]:
    """{size/task: its status}."""
    paths = (tmp_path / "out").glob("runs/*/*/status.json")
    return {f"{path.parts[-3].partition('-')[0]}/{path.parts[-2]}": read_json(path) for path in paths}


def trains(tmp_path: Path, key: str) -> bool:
    """Whether the task makes steps."""
    status = statuses(tmp_path).get(key, {})
    return status.get("state") == "running" and bool(status["step"])


@pytest.mark.slow
def test_the_queue_outlives_its_launcher_and_takes_on_more(run_process: Run, tmp_path: Path) -> None:
    """Kill -9 of the launcher changes nothing; a second launch adds its task to the same queue, watches all to the end,
    and nothing was started twice."""
    first = launch(tmp_path, "study.sizes=[femto]", "pretrain.steps=300")
    until(lambda: trains(tmp_path, "femto/pretrain"))
    queue = holder(tmp_path / "out" / "queue")
    first.kill()
    first.communicate()
    words = [word for word in WORDS if not word.startswith("cluster.slots")]
    second = run_process("launch.py", *words, "cluster.slots=2", "study.sizes=[femto,pico]", "pretrain.steps=300")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "the queue of an earlier launch is at work" in second.stdout
    assert "those of this launch hold from its next start" in second.stdout
    assert queue is not None
    until(lambda: holder(tmp_path / "out" / "queue") is None)
    states = statuses(tmp_path)
    assert {key: (state["state"], state["attempt"]) for key, state in states.items()} == {
        f"{size}/{task}": ("finished", 1) for size in ("femto", "pico") for task in ("pretrain", "classify")
    }


@pytest.mark.slow
def test_leave_cancel_and_retry(run_process: Run, tmp_path: Path) -> None:
    """A launch that does not watch leaves at once; a task cancelled from another shell saves, stays cancelled with what
    waits for it whatever is launched; a retry of it finishes both from where they were, and then has nothing to do."""
    words = ("study.sizes=[femto,pico]", "pretrain.steps=600")
    assert run_process("launch.py", *WORDS, *words, "watch=false").returncode == 0
    until(lambda: trains(tmp_path, "pico/pretrain") or trains(tmp_path, "femto/pretrain"))
    size = "pico" if trains(tmp_path, "pico/pretrain") else "femto"
    other = "femto" if size == "pico" else "pico"
    done = run_process("cancel.py", "out", f"run={size}", "task=pretrain")
    assert (done.returncode, done.stdout.partition(";")[0]) == (0, "cancelled: 2 tasks")
    state = statuses(tmp_path)[f"{size}/pretrain"]
    assert (state["state"], state["error"]) == ("failed", "cancelled") and state["step"] not in (0, 600)
    again = run_process("launch.py", *WORDS, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    states = statuses(tmp_path)
    assert states[f"{other}/classify"]["state"] == "finished"
    assert states[f"{size}/classify"]["error"] == "cancelled"
    retried = run_process("retry.py", "out", "task=pretrain")
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert all(status["state"] == "finished" for status in statuses(tmp_path).values())
    assert statuses(tmp_path)[f"{size}/pretrain"]["attempt"] == 2
    done = run_process("retry.py", "out", "task=classify")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all tasks named are finished")


@pytest.mark.slow(seconds=3)
def test_a_launch_says_that_it_waits_for_another_study(
    run_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another study holds the cores, the launch and the status say so in one line."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held = Leases().claim(["cores"], Fraction(1))
    assert held is not None
    launcher = launch(tmp_path, "study.sizes=[femto]", "pretrain.steps=2")
    try:
        assert launcher.stdout is not None
        line = next(line for line in launcher.stdout if "waits for" in line)
        assert f"waits for cores held by 1 task of other studies (process {os.getpid()})" in line
        assert "waits for cores" in run_process("status.py", "out").stdout
    finally:
        os.killpg(launcher.pid, signal.SIGINT)
        launcher.communicate(timeout=120)
        Leases().release(held)


@pytest.mark.slow
def test_ctrl_c_stops_the_queue(tmp_path: Path) -> None:
    """Ctrl-C in the launcher lets the tasks save; nothing is left running, and everything says how it stands. A retry
    continues them from another folder, whose name in their settings stands for a folder of the launch's."""
    write_digits(tmp_path / "mine" / "sets", num_train=64, num_validation=16, shard_size=32)
    (tmp_path / "mine" / "nepa.yaml").write_text("data_sets: {own: {folder: sets/digits}}")
    words = ("config_dir=mine", "pretrain.steps=400", "pretrain.dataset=own")
    launcher = launch(tmp_path, "study.sizes=[femto]", *words)
    until(lambda: trains(tmp_path, "femto/pretrain"))
    os.killpg(launcher.pid, signal.SIGINT)
    output, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 1 and "stopped: what ran is saved" in output
    assert holder(tmp_path / "out" / "queue") is None
    states = statuses(tmp_path)
    assert states["femto/pretrain"]["state"] == "preempted" and states["femto/classify"]["state"] == "planned"
    assert list((tmp_path / "out").glob("runs/femto*/pretrain/checkpoints/*"))
    mark_cancelled(next((tmp_path / "out").glob("runs/femto*/pretrain")))
    (tmp_path / "elsewhere").mkdir()
    command = [str(ROOT / "sweeps" / "retry.py"), "../out", "task=classify"]
    retried = warm.run(command, kind=WarmLauncher, cwd=tmp_path / "elsewhere")
    assert retried.returncode == 0 and "retrying 2 of 2" in retried.stdout, retried.stdout + retried.stderr
    assert [state["state"] for state in statuses(tmp_path).values()] == ["finished", "finished"]
    assert list((tmp_path / "elsewhere").iterdir()) == []  # as where data.root=data would have been made anew
