"""What a plan warns of before it is started."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SLURM = ("cluster=slurm", "cluster.tasks_per_node=1", "cluster.gpus_per_node=1", "dry_run=true")
ONE = ("study.sizes=[femto]", "study.tasks=[pretrain]", "study.scratch_control=false")


def warned(run: Run, *words: str) -> list[str]:
    """The warnings of a dry run."""
    done = run("launch.py", *SLURM, *words)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("requeues", "warns"), [(0, True), (1, False)], ids=["one job is too short", "a second one suffices"]
)
def test_tasks_that_outlast_their_jobs(run: Run, requeues: int, warns: bool) -> None:
    """Time limit times starts, less what each start and save takes, must be enough; a plan warns where it is not."""
    plain = run("launch.py", *SLURM, *ONE, "cluster.flops_per_second=1e9", "cluster.startup_seconds=0")
    assert "time: 1.2 min of work" in plain.stdout, plain.stdout
    words = ("cluster.flops_per_second=1e9", "cluster.startup_seconds=0", "cluster.save_seconds=5")
    lines = warned(run, *ONE, *words, "cluster.timeout_min=1", f"cluster.max_requeues={requeues}")
    assert [("cluster.timeout_min" in line and "femto pretrain" in line) for line in lines] == [True] * warns


def test_more_than_the_named_device_has(run: Run) -> None:
    """A device that is named has a known memory: what it cannot hold is told, and which node counts the batch rules
    out."""
    words = ("study.sizes=[giant]", *ONE[1:], "cluster.device=t4", "cluster.mfu=0.3")
    (line,) = warned(run, *words, "cluster.max_nodes=4", "pretrain.batch_size=2", "engine.ds_config=zero0")
    assert "giant pretrain: needs about" in line
    assert "of the 16.00 GiB" in line
    assert "pretrain.batch_size=2 does not divide over 4 devices" in line
    assert warned(run, *ONE, "cluster.device=t4", "cluster.mfu=0.3") == []


def test_gpus_that_are_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a GPU are planned as GPUs; where this machine shows none, that is told."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    done = run("launch.py", *ONE, "dry_run=true", "cluster.flops_per_second=1e10")
    assert "on 2 slots" in done.stdout
    assert "warning: CUDA_VISIBLE_DEVICES=MIG-1,MIG-2: this machine shows no GPU" in done.stdout
