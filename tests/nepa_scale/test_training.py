"""Whole trainings in their own processes: every ZeRO stage, two ranks, kills, signals, all three tasks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import REPOSITORY, TRAIN, clean_environment, free_port, losses, rows, start, train, wait_for_step

from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.run_dir.status import read_status

pytestmark = pytest.mark.slow
STEPS = 20


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of digit scenes."""
    root = tmp_path_factory.mktemp("data")
    write_digits(root, num_train=96, num_validation=37)
    return root


def words(data_root: Path, run_dir: Path, *extra: str, task: str = "pretrain") -> list[str]:
    """A short training that logs every step."""
    return [
        f"task={task}",
        "model.size=femto",
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        f"data.root={data_root}",
        f"run_dir={run_dir}",
        f"{task}.steps={STEPS}",
        f"{task}.batch_size=16",
        f"{task}.base_lr=3e-2",
        "log.every=1",
        "log.tensorboard=false",
        "checkpoint.every=5",
        *extra,
    ]


@pytest.fixture(scope="module")
def reference(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, ZeRO stage 0, never disturbed."""
    run_dir = tmp_path_factory.mktemp("reference")
    train(words(data_root, run_dir))
    return run_dir / "pretrain"


def test_reference_run_is_complete(reference: Path) -> None:
    """A finished task leaves every file of its contract, with finite figures that moved."""
    result = json.loads((reference / "result.json").read_text())
    assert read_status(reference).state == "finished"
    assert (reference / "model.safetensors").is_file()
    assert (reference / "log.txt").is_file()
    assert (reference.parent / "config.yaml").is_file()
    assert result["images_seen"] == STEPS * 16
    assert result["unique_images"] == 96
    assert result["validation_images"] == 37
    assert result["tokens_seen"] == STEPS * 16 * 16
    assert len(losses(reference)) == STEPS
    assert losses(reference)[-1] < losses(reference)[0] - 0.05
    assert -1 <= result["metrics"]["loss"] <= 1
    assert result["peak_memory_bytes"] > 2**26


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_equal_one_process(stage: int, data_root: Path, reference: Path, tmp_path: Path) -> None:
    """How a batch is spread over devices and ZeRO stages must not change the training."""
    train(words(data_root, tmp_path, f"engine.ds_config=zero{stage}"), world_size=2)
    assert losses(tmp_path / "pretrain") == pytest.approx(losses(reference), rel=1e-4)
    norms = [row["grad_norm"] for row in rows(tmp_path / "pretrain") if "grad_norm" in row]
    expected = [row["grad_norm"] for row in rows(reference) if "grad_norm" in row]
    assert norms == pytest.approx(expected, rel=1e-3)
    metrics = json.loads((tmp_path / "pretrain" / "result.json").read_text())["metrics"]
    assert metrics == pytest.approx(json.loads((reference / "result.json").read_text())["metrics"], rel=1e-3)


def test_accumulation_equals_whole_batch(data_root: Path, reference: Path, tmp_path: Path) -> None:
    """Micro-batches are summed to the same step as the whole batch, and steps that are profiled to the same, too."""
    train(words(data_root, tmp_path, "micro_batch_size=4", "log.profile=3:4"))
    assert losses(tmp_path / "pretrain") == pytest.approx(losses(reference), rel=1e-4)
    assert (tmp_path / "pretrain" / "profile" / "steps_3-4.json.gz").is_file()


@pytest.mark.parametrize("stage", [0, 3])
def test_kill_and_continue(stage: int, data_root: Path, reference: Path, tmp_path: Path) -> None:
    """After kill -9 the same command goes on from the last checkpoint to the same losses, none missing or doubled."""
    command = words(data_root, tmp_path, f"engine.ds_config=zero{stage}", "checkpoint.every=3")
    process = start(command)
    wait_for_step(tmp_path / "pretrain", 7, process)
    process.kill()
    process.communicate()
    assert read_status(tmp_path / "pretrain").state == "running"
    assert "continuing from step" in train(command)
    assert [row["step"] for row in rows(tmp_path / "pretrain") if "loss" in row] == list(range(1, STEPS + 1))
    assert losses(tmp_path / "pretrain") == pytest.approx(losses(reference), rel=1e-5)
    assert read_status(tmp_path / "pretrain").attempt == 2


def test_sigterm_saves_then_same_command_continues(data_root: Path, reference: Path, tmp_path: Path) -> None:
    """A stop request loses no step: state preempted, exit code 0, and the rest as if nothing had happened."""
    command = words(data_root, tmp_path, "checkpoint.every=0")
    process = start(command)
    wait_for_step(tmp_path / "pretrain", 4, process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    status = read_status(tmp_path / "pretrain")
    assert status.state == "preempted"
    assert 4 <= status.step < STEPS
    assert "learning rate" not in train(command)
    assert losses(tmp_path / "pretrain") == pytest.approx(losses(reference), rel=1e-5)


def test_a_run_that_had_another_schedule_is_told(data_root: Path, tmp_path: Path) -> None:
    """A run whose warm-up an earlier version rounded otherwise goes on, and its log says which rates differ."""
    command = words(data_root, tmp_path, "checkpoint.every=3")
    process = start(command)
    wait_for_step(tmp_path / "pretrain", 7, process)
    process.kill()
    process.communicate()
    log = tmp_path / "pretrain" / "metrics.jsonl"
    earlier = [json.loads(line) for line in log.read_text().split("\n")[:-1]]
    log.write_text("".join(json.dumps({**row, "lr": 1.1 * row["lr"]}) + "\n" for row in earlier))
    assert "the learning rate of step" in train(command)
    assert read_status(tmp_path / "pretrain").state == "finished"


def test_second_process_is_refused(data_root: Path, tmp_path: Path) -> None:
    """Two processes on one task would overwrite each other: the second names the first and leaves."""
    command = words(data_root, tmp_path)
    first = start(command)
    wait_for_step(tmp_path / "pretrain", 1, first)
    first.send_signal(signal.SIGSTOP)  # or it may be done before the second has started
    second = subprocess.run(
        [sys.executable, TRAIN, *command],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert f"process {first.pid}" in second.stderr
    first.kill()
    first.communicate()


@pytest.mark.parametrize("task", ["classify", "segment"])
@pytest.mark.parametrize("world_size", [1, 2])
def test_fine_tuning_from_pretrained(
    task: str, world_size: int, data_root: Path, reference: Path, tmp_path: Path
) -> None:
    """Both supervised tasks start from pre-trained weights, on one rank and (ZeRO-3) on two, with the same outcome."""
    stage = "zero3" if world_size == 2 else "zero0"
    extra = (
        f"init={reference.parent}",
        f"engine.ds_config={stage}",
        f"{task}.base_lr=1e-2",
        f"{task}.steps=6",
    )
    command = [word for word in words(data_root, tmp_path, task=task) if not word.startswith(f"{task}.steps")]
    command = [word for word in command if not word.startswith(f"{task}.base_lr")]
    train([*command, *extra], world_size=world_size)
    result = json.loads((tmp_path / task / "result.json").read_text())
    metric = result["metrics"]["top1" if task == "classify" else "miou"]
    assert 0 <= metric <= 1
    kept = reference.parent / f"{task}.json"  # the first world size leaves its losses for the second to meet
    if kept.is_file():
        assert losses(tmp_path / task) == pytest.approx(json.loads(kept.read_text()), rel=1e-3)
    kept.write_text(json.dumps(losses(tmp_path / task)))


def test_finished_task_is_left_alone(data_root: Path, reference: Path) -> None:
    """Running a finished task again does nothing and says so."""
    before = (reference / "result.json").stat().st_mtime_ns
    assert "already finished" in train(words(data_root, reference.parent))
    assert (reference / "result.json").stat().st_mtime_ns == before


def test_deepspeed_launcher_with_two_ranks(data_root: Path, tmp_path: Path, reference: Path) -> None:
    """README's command: DeepSpeed's own launcher starts two CPU ranks."""
    launcher = Path(sys.executable).parent / "deepspeed"
    port = f"--master_port={free_port()}"  # other tests run at the same time
    command = [str(launcher), "--num_gpus", "2", port, "nepa_scale/train.py", *words(data_root, tmp_path)]
    environment = {**clean_environment(), "PATH": f"{launcher.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path / "pretrain") == pytest.approx(losses(reference), rel=1e-4)
    assert json.loads((tmp_path / "pretrain" / "result.json").read_text())["device_count"] == 2
