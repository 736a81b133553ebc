"""Signals at every awkward moment: what was reached is saved once, everybody leaves, the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from children import Child
from injecting import BEFORE_STEP, ends, start_ranks, start_with
from launching import REPOSITORY, clean_environment, free_port, rows, wait_for_step
from launching import train as trained

from nepa_scale.run_dir.status import Status, read_status

pytestmark = pytest.mark.slow
STEPS = 12
SIGNAL_MYSELF = "import signal\ndef fault(*_): os.kill(os.getpid(), signal.SIGTERM)\n"
BEFORE_MODEL = """
from nepa_scale.training import runner as session
build = session.build_task
session.build_task = lambda *words: (fault(), build(*words))[1]
"""
WHILE_SAVING = """
from nepa_scale.checkpoint.checkpointer import Checkpoints
write = Checkpoints._write
def with_fault(self, path, *rest):
    if "step_00000004" in str(path): fault()
    write(self, path, *rest)
    if "step_00000004" in str(path): fault()
Checkpoints._write = with_fault
"""
WHILE_EVALUATING = """
from nepa_scale.training import trainer as loop
asked = loop.Trainer._evaluation_interrupted
def with_fault(self):
    if self.world.rank == 1 and self._saved == int(os.environ["FAULT_STEP"]): fault()
    return asked(self)
loop.Trainer._evaluation_interrupted = with_fault
"""
HANG = "import time\ndef fault(step): time.sleep(600)\n" + BEFORE_STEP


def words(digits_root: Path, run_dir: Path, *extra: str) -> list[str]:
    """A pre-training of 12 steps that evaluates every sixth."""
    return [
        "task=pretrain",
        "model=femto",
        f"data.root={digits_root}",
        f"run_dir={run_dir}",
        f"pretrain.steps={STEPS}",
        "pretrain.batch_size=16",
        "pretrain.eval_every=6",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
        "checkpoint.every=4",
        *extra,
    ]


def status_of(run_dir: Path) -> Status:
    """The status of the pre-training."""
    status = read_status(run_dir / "pretrain")
    assert status is not None
    return status


def figures(run_dir: Path) -> list[dict[str, float]]:
    """The rows of the log without what depends on the clock."""
    kept = ("step", "images_seen", "loss", "lr", "grad_norm", "target_std", "eval_loss", "eval_skill")
    return [{name: row[name] for name in kept if name in row} for row in rows(run_dir / "pretrain")]


@pytest.fixture(scope="module")
def undisturbed(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks that nobody stops."""
    run_dir = tmp_path_factory.mktemp("undisturbed")
    trained(words(digits_root, run_dir), world_size=2)
    return run_dir


def to_one(processes: list[subprocess.Popen[str]]) -> None:
    """SIGTERM to the last rank alone."""
    processes[-1].send_signal(signal.SIGTERM)


def to_all_twice(processes: list[subprocess.Popen[str]]) -> None:
    """What a scheduler does: its warning, then its signal to end, to every rank."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        for process in processes:
            process.send_signal(number)


@pytest.mark.parametrize("stop", [to_one, to_all_twice])
def test_ranks_stop_together(
    digits_root: Path, tmp_path: Path, undisturbed: Path, stop: Callable[[list[subprocess.Popen[str]]], None]
) -> None:
    """Whoever gets the signal, all save the same step and leave with code 0; the rest is as if nothing had been."""
    command = words(digits_root, tmp_path, "checkpoint.every=0")
    processes = start_ranks(SLOW_STEPS, command, 2)
    wait_for_step(tmp_path / "pretrain", 2, processes[0])
    stop(processes)
    assert [process.code for process in ends(processes)] == [0, 0]
    assert status_of(tmp_path).state == "preempted"
    assert "continuing from step" in trained(command, world_size=2)
    assert figures(tmp_path) == figures(undisturbed)


SLOW_STEPS = "import time\nfrom nepa_scale.training import batches as feed\nfetch = feed.Batches.fetch\n" + (
    "feed.Batches.fetch = lambda self: (time.sleep(0.3), fetch(self))[1]\n"
)


def test_stopped_before_the_first_step(digits_root: Path, tmp_path: Path, undisturbed: Path) -> None:
    """A signal while the model is still being built: nothing to save, nothing half-made, and the command goes on."""
    command = words(digits_root, tmp_path)
    codes = [process.code for process in ends(start_ranks(SIGNAL_MYSELF + BEFORE_MODEL, command, 2))]
    assert codes == [0, 0]
    assert (status_of(tmp_path).state, status_of(tmp_path).step) == ("preempted", 0)
    assert not (tmp_path / "pretrain" / "checkpoints").exists()
    trained(command, world_size=2)
    assert figures(tmp_path) == figures(undisturbed)


def test_stopped_while_saving(digits_root: Path, tmp_path: Path, undisturbed: Path) -> None:
    """The save that is on its way completes, once; nothing is saved a second time for the signal."""
    command = words(digits_root, tmp_path)
    codes = [process.code for process in ends(start_ranks(SIGNAL_MYSELF + WHILE_SAVING, command, 2))]
    assert codes == [0, 0]
    assert (status_of(tmp_path).state, status_of(tmp_path).step) == ("preempted", 4)
    assert [path.name for path in (tmp_path / "pretrain" / "checkpoints").glob("step*")] == ["step_00000004"]
    trained(command, world_size=2)
    assert figures(tmp_path) == figures(undisturbed)


@pytest.mark.parametrize("step", [6, 12])
def test_stopped_while_evaluating(digits_root: Path, tmp_path: Path, undisturbed: Path, step: int) -> None:
    """A long evaluation does not eat the grace period: all ranks leave it, and the next process evaluates anew."""
    command = words(digits_root, tmp_path)
    fault = SIGNAL_MYSELF + WHILE_EVALUATING
    ended = ends(start_ranks(fault, command, 2, FAULT_STEP=str(step)))
    assert [process.code for process in ended] == [0, 0]
    assert "stopped while evaluating; the same command evaluates again" in ended[0].output
    assert (status_of(tmp_path).state, status_of(tmp_path).step) == ("preempted", step)
    assert [row for row in rows(tmp_path / "pretrain") if row["step"] == step and "eval_loss" in row] == []
    trained(command, world_size=2)
    assert figures(tmp_path) == figures(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whole_process_group_is_signalled(digits_root: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C reaches loader processes, too, also while they start: they leave signals to the training process."""
    command = words(digits_root, tmp_path, "data.num_workers=2")
    new_group = "os.setsid()\n" + SLOW_STEPS
    process = start_with(new_group, command)
    deadline = time.monotonic() + 60
    while len(psutil.Process(process.pid).children()) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, number)
    [ended] = ends([process])
    assert ended.code == 0, ended.output
    assert "Traceback" not in ended.output
    assert status_of(tmp_path).state == "preempted"


def test_second_interrupt_ends_a_rank_that_waits_for_another(digits_root: Path, tmp_path: Path) -> None:
    """Inside a collective no Python code runs, but a person who presses Ctrl-C again is not made to wait."""
    processes = start_ranks(HANG, words(digits_root, tmp_path), 2, FAULT_RANK="1", FAULT_STEP="2")
    wait_for_step(tmp_path / "pretrain", 2, processes[0])
    time.sleep(1)
    processes[0].send_signal(signal.SIGINT)
    time.sleep(1)
    assert processes[0].poll() is None
    processes[0].send_signal(signal.SIGINT)
    try:
        assert processes[0].wait(timeout=10) == 130
    finally:
        processes[1].kill()
        ends(processes)


@pytest.mark.parametrize("to", ["launcher", pytest.param("group", marks=pytest.mark.long)])
def test_stopped_through_the_deepspeed_launcher(digits_root: Path, tmp_path: Path, to: str) -> None:
    """Ctrl-C in its terminal, or SIGTERM to its ``launch`` process, leaves the ranks 30 seconds, enough to save."""
    folder = Path(sys.executable).parent
    command = [*words(digits_root, tmp_path), "pretrain.steps=2000", "pretrain.eval_every=0"]
    process = Child(
        [str(folder / "deepspeed"), "--num_gpus=2", f"--master_port={free_port()}", "nepa_scale/train.py", *command],
        cwd=REPOSITORY,
        env={**clean_environment(), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for_step(tmp_path / "pretrain", 2, process)
    if to == "group":
        os.killpg(process.pid, signal.SIGINT)
    else:
        [launcher] = psutil.Process(process.pid).children()
        launcher.send_signal(signal.SIGTERM)
    ends([process])
    assert status_of(tmp_path).state == "preempted"
    assert status_of(tmp_path).step >= 2
