"""Runs that miss a milestone: they end there on every rank, stay ended, and leave no result."""

from __future__ import annotations

from pathlib import Path

import pytest
from injecting import ends, start_ranks, start_with
from launching import rows, train

from nepa_scale.distributed.failures import ExitCode
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils.errors import failure_reason

pytestmark = pytest.mark.slow


def words(digits_root: Path, run_dir: Path, milestones: str) -> list[str]:
    """A pre-training of 8 steps on digits."""
    return [
        "task=pretrain",
        "model=femto",
        f"data.root={digits_root}",
        f"run_dir={run_dir}",
        "pretrain.steps=8",
        "pretrain.batch_size=16",
        f"pretrain.milestones={milestones}",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
        "checkpoint.every=3",
    ]


def failure(task_dir: Path) -> tuple[str, int, str]:
    """State, step and kind of failure that ``status.json`` tells."""
    status = read_status(task_dir)
    assert status is not None
    return status.state, status.step, str(failure_reason(status.error))


def test_a_missed_milestone_ends_all_ranks_and_stays_missed(digits_root: Path, tmp_path: Path) -> None:
    """At the stated step, though no evaluation was due there; a retry trains no step, and a lower bar lets it go on."""
    task_dir = tmp_path / "run" / "pretrain"
    missed = words(digits_root, tmp_path / "run", "{2: {knn_top1: 0}, 5: {skill: 0.99}}")
    ended = ends(start_ranks("", missed, 2))
    assert [process.code for process in ended] == [ExitCode.MILESTONE] * 2, ended
    assert "not at least 0.99 (pretrain.milestones)" in ended[0].output and "Traceback" not in ended[0].output
    assert failure(task_dir) == ("failed", 5, "milestone")
    assert [row["step"] for row in rows(task_dir) if "eval_loss" in row] == [2, 5]
    before = rows(task_dir)
    [again] = ends([start_with("", missed)])
    assert again.code == ExitCode.MILESTONE, again.output
    assert rows(task_dir) == before and failure(task_dir) == ("failed", 5, "milestone")
    assert not (task_dir / "result.json").exists() and not (task_dir / "model.safetensors").exists()
    train(words(digits_root, tmp_path / "run", "{2: {knn_top1: 0}, 5: {skill: -9}, 8: {loss: 1}}"))
    assert [row["step"] for row in rows(task_dir) if "loss" in row] == list(range(1, 9))
    assert failure(task_dir)[0] == "finished" and (task_dir / "result.json").is_file()


def test_the_last_step_has_its_milestone_too(digits_root: Path, tmp_path: Path) -> None:
    """A run that ends below the bar has no result, and neither does one that passed a step before it had the bar."""
    for step in (8, 4):
        [ended] = ends([start_with("", words(digits_root, tmp_path, f"{{{step}: {{skill: 0.99}}}}"))])
        assert ended.code == ExitCode.MILESTONE, ended.output
        assert failure(tmp_path / "pretrain") == ("failed", 8, "milestone")
        assert not (tmp_path / "pretrain" / "result.json").exists()
