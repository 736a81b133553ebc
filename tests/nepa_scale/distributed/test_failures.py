"""One rank raises, hangs or dies: the whole job ends, soon, with the first error shown and recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from injecting import BEFORE_STEP, ends, start_ranks, start_with
from launching import REPOSITORY, TRAIN, clean_environment, free_port, losses, wait_for_step
from launching import train as trained

from nepa_scale.run_dir.status import read_status

pytestmark = pytest.mark.slow
RAISE = "def fault(step): raise RuntimeError('the fault of this test')\n" + BEFORE_STEP
HANG = "import time\ndef fault(step): time.sleep(600)\n" + BEFORE_STEP
KILL = "import signal\ndef fault(step): os.kill(os.getpid(), signal.SIGKILL)\n" + BEFORE_STEP
NO_INTERFACE = "os.environ['GLOO_SOCKET_IFNAME'] = 'none0'"
NO_GROUP = """
import torch.distributed
def init_process_group(*arguments, **options):
    raise RuntimeError("the fault of this test")
torch.distributed.init_process_group = init_process_group
"""
POISON = """
import torch
from nepa_scale.training import trainer as loop
save = loop.Trainer._save
def with_fault(self, done, **options):
    if done == 8 and self.world.rank == 1:
        with torch.no_grad():
            next(self.engine.module.parameters()).fill_(float("nan"))
    return save(self, done, **options)
loop.Trainer._save = with_fault
"""


def words(digits_root: Path, run_dir: Path, *extra: str) -> list[str]:
    """A pre-training of 12 steps that saves every fourth."""
    return [
        "task=pretrain",
        "model=femto",
        f"data.root={digits_root}",
        f"run_dir={run_dir}",
        "pretrain.steps=12",
        "pretrain.batch_size=16",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
        "checkpoint.every=4",
        *extra,
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_ends_the_job(digits_root: Path, tmp_path: Path, rank: int) -> None:
    """The others leave within seconds and with its code; its error is shown and recorded, not their lost connection.

    The same command then continues to the losses of an undisturbed run.
    """
    command = words(digits_root, tmp_path / "run")
    ranks = start_ranks(RAISE, command, 2, FAULT_RANK=str(rank), FAULT_STEP="6")
    started = time.monotonic()
    ended = ends(ranks)
    took = time.monotonic() - started
    assert [process.code for process in ended] == [1, 1]
    status = read_status(tmp_path / "run" / "pretrain")
    assert status is not None
    assert status.state == "failed"
    assert status.error is not None
    assert status.error.startswith(f"rank {rank} on ")
    assert status.error.endswith("after step 6: RuntimeError: the fault of this test")
    assert ended[0].output.splitlines()[-1] == f"error: {status.error}"
    assert "Connection" not in ended[1 - rank].output
    assert ended[rank].output.count("Traceback") == 1
    assert took < 60
    assert "continuing from step 4" in trained(command, world_size=2)
    trained(words(digits_root, tmp_path / "undisturbed"), world_size=2)
    assert losses(tmp_path / "run" / "pretrain") == losses(tmp_path / "undisturbed" / "pretrain")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("fault", "code", "reason"),
    [
        (NO_INTERFACE, 2, "environment: GLOO_SOCKET_IFNAME=none0: "),
        (NO_GROUP, 1, "RuntimeError: the fault of this test"),
    ],
    ids=["user", "machine"],
)
def test_a_rank_that_cannot_join_ends_the_job(
    digits_root: Path, tmp_path: Path, fault: str, code: int, reason: str, rank: int
) -> None:
    """The others do not wait for it, and its reason is the last line and on record; a user's mistake is one line."""
    on_one = f"if os.environ['RANK'] == '{rank}':\n" + textwrap.indent(fault, "    ")
    started = time.monotonic()
    ended = ends(start_ranks(on_one, words(digits_root, tmp_path), 2))
    assert time.monotonic() - started < 180  # two imports on a busy machine; without an end it takes hours
    assert [process.code for process in ended] == [code, code], ended
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert status.state == "failed"
    assert str(status.error).startswith(f"rank {rank} on ")
    assert f"after step 0: {reason}" in str(status.error)
    assert ended[0].output.splitlines()[-1] == f"error: {status.error}"
    assert sum("Traceback" in process.output for process in ended) == (code == 1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_ends_the_job(digits_root: Path, tmp_path: Path, rank: int) -> None:
    """After the timeout all leave with its code, the hung one too; it is named, and its stack shows where it hung."""
    command = words(digits_root, tmp_path, "engine.timeout_minutes=0.1")
    ended = ends(start_ranks(HANG, command, 2, FAULT_RANK=str(rank), FAULT_STEP="6"))
    assert [process.code for process in ended] == [4, 4]
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert status.error is not None
    assert status.error.startswith(f"timeout: rank {rank} on ")
    assert "is at 'step 7, micro-batch 1', the others wait for it at 'step 7, micro-batch 1'" in status.error
    assert "raise engine.timeout_minutes" in status.error
    assert ended[0].output.splitlines()[-1] == f"error: {status.error}"
    stacks = [(tmp_path / "pretrain" / "stacks" / f"rank_{each:05d}.txt").read_text() for each in range(2)]
    assert "in fault" in stacks[rank]
    assert "in fault" not in stacks[1 - rank]
    assert "all_reduce" in stacks[1 - rank]


def test_a_single_process_that_hangs_ends(digits_root: Path, tmp_path: Path) -> None:
    """Without other ranks the same holds, and loader processes do not stay behind."""
    command = words(digits_root, tmp_path, "engine.timeout_minutes=0.05", "data.num_workers=1")
    process = start_with(HANG, command, FAULT_RANK="0", FAULT_STEP="2")
    wait_for_step(tmp_path / "pretrain", 2, process)
    workers = children(process.pid)
    [ended] = ends([process])
    assert ended.code == 4
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert str(status.error).startswith("timeout: no progress for 3 s: it is at 'step 3, micro-batch 1'")
    assert workers
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_is_missed(digits_root: Path, tmp_path: Path, rank: int) -> None:
    """kill -9 leaves no message: the others find out who fell silent, and record it, even when rank 0 cannot."""
    command = words(digits_root, tmp_path)
    ended = ends(start_ranks(KILL, command, 2, FAULT_RANK=str(rank), FAULT_STEP="6"), timeout=90)
    assert [process.code for process in ended] == ([-9, 1] if rank == 0 else [1, -9])
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert status.state == "failed"
    assert str(status.error).startswith(f"rank {rank} on ")
    assert "gave no sign of life any more" in str(status.error)
    assert "continuing from step 4" in trained(command, world_size=2)


def test_a_suspended_process_goes_on(digits_root: Path, tmp_path: Path) -> None:
    """A job that the scheduler stops for longer than the timeout, and lets continue, has not hung."""
    command = words(digits_root, tmp_path, "engine.timeout_minutes=0.1", "pretrain.steps=400")
    process = start_with("", command)
    wait_for_step(tmp_path / "pretrain", 2, process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(11)
    process.send_signal(signal.SIGCONT)
    [ended] = ends([process])
    assert ended.code == 0, ended.output


@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun"])
def test_a_launcher_hides_nothing(digits_root: Path, tmp_path: Path, launcher: str) -> None:
    """Launchers kill the other ranks at the first exit; by then the first error is recorded and on the screen."""
    script = tmp_path / "train_with_fault.py"
    start = f"import os, runpy, sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
    script.write_text(f"{start}{RAISE}\nrunpy.run_path({TRAIN!r}, run_name='__main__')\n")
    number = {"deepspeed": "--num_gpus=2", "torchrun": "--nproc_per_node=2"}[launcher]
    path = Path(sys.executable).parent
    done = subprocess.run(
        [str(path / launcher), number, f"--master_port={free_port()}", str(script), *words(digits_root, tmp_path)],
        env={
            **clean_environment(FAULT_RANK="1", FAULT_STEP="6"),
            "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert str(status.error).endswith("after step 6: RuntimeError: the fault of this test")
    assert f"error: {status.error}" in done.stderr.splitlines()


def test_poisoned_weights_are_not_saved(digits_root: Path, tmp_path: Path) -> None:
    """NaN in one rank's weights when a checkpoint is due: the one before stays the newest, all leave with code 6."""
    ended = ends(start_ranks(POISON, words(digits_root, tmp_path), 2))
    assert [process.code for process in ended] == [6, 6], ended
    status = read_status(tmp_path / "pretrain")
    assert status is not None
    assert str(status.error).startswith("diverged: the weights after step 8 are not finite and were not saved")
    assert [path.name for path in (tmp_path / "pretrain" / "checkpoints").glob("step*")] == ["step_00000004"]


def children(pid: int) -> list[int]:
    """The processes that ``pid`` has started and that still run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
