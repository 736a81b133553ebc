"""Whole trainings on data that is bad from the start, or goes bad while they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from injecting import ends, start_with
from launching import free_port, losses, rows, start, train
from torch.utils.data import Dataset

from nepa_scale.data.loader import worker_loader
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.data.sources import open_source
from nepa_scale.run_dir.status import read_status
from nepa_scale.utils.errors import DataError

pytestmark = pytest.mark.slow
STEPS = 20


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """96 training images in four shards, for a test to spoil."""
    write_digits(tmp_path / "data", num_train=96, num_validation=37, shard_size=24)
    return tmp_path / "data"


def words(data_root: Path, run_dir: Path, *extra: str) -> list[str]:
    """A short pre-training that logs every step."""
    return [
        "task=pretrain",
        "model.size=femto",
        f"data.root={data_root}",
        f"run_dir={run_dir}",
        f"pretrain.steps={STEPS}",
        "pretrain.batch_size=16",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
        *extra,
    ]


def shard(data_root: Path, number: int = 0) -> Path:
    """A training shard."""
    return data_root / "digits" / f"train-{number:06d}.tar"


def spoil(data_root: Path, *numbers: int) -> None:
    """Overwrite the start of these images of the first shard, in place."""
    samples = open_source(data_root, "digits", "train")._samples
    times = shard(data_root).stat()
    with shard(data_root).open("r+b") as file:
        for number in numbers:
            file.seek(int(samples[number]["image_offset"]))
            file.write(b"<html>")
    os.utime(shard(data_root), ns=(times.st_atime_ns, times.st_mtime_ns))


BREAKING = """
import torch
from torchvision.transforms import functional, v2
from timm.data import auto_augment
from nepa_scale.data import transforms
def broken(*_, **__): raise RuntimeError("not in this version")
{place} = broken
"""


@pytest.mark.parametrize(
    ("task", "place", "operation", "extra"),
    [
        ("pretrain", "transforms.resize", "PretrainCrop", ("data.num_workers=1",)),
        ("probe", "functional.resized_crop", "RandomResizedCropAndInterpolation", ()),
        (
            "classify",
            "auto_augment.NAME_TO_OP['Invert']",
            "Invert() of RandAugment",
            ("classify.auto_augment=rand-p1-n1", "data.num_workers=1", "data.streaming=true"),
        ),
        ("classify", "functional.hflip", "RandomHorizontalFlip", ("classify.hflip=1", "data.streaming=true")),
        (
            "segment",
            "v2.RandomPhotometricDistort.make_params",
            "PhotometricDistortion",
            ("segment.photometric=true", "data.num_workers=1"),
        ),
    ],
)
def test_an_operation_that_fails_ends_the_run_in_a_line(
    data_root: Path, tmp_path: Path, task: str, place: str, operation: str, extra: tuple[str, ...]
) -> None:
    """As in another version of a library: exit code 3 and one line with sample and operation, in every task."""
    command = words(data_root, tmp_path / "run", f"task={task}", *extra)
    command = [word.replace("pretrain.", f"{task}.") for word in command]
    if task != "pretrain":
        command += [f"init={exported_start(data_root, tmp_path)}" if task == "probe" else "init=scratch"]
    [ended] = ends([start_with(BREAKING.format(place=place), command)])
    assert ended.code == 3, ended.output
    assert "Traceback" not in ended.output
    [line] = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    assert "sample 'train_0000" in line
    assert f"{operation} fails on the image of 32x32 pixels (RuntimeError: not in this version)" in line
    assert read_status(tmp_path / "run" / task).state == "failed"


def exported_start(data_root: Path, tmp_path: Path) -> Path:
    """A pre-training of a step, for a probe to start from."""
    train([*words(data_root, tmp_path / "start"), "pretrain.steps=1"])
    return tmp_path / "start"


def run_to_its_end(command: Sequence[str], *, world_size: int = 1) -> tuple[list[int], str]:
    """Exit codes of all ranks and what they printed, rank by rank."""
    port = free_port()
    processes = [start(command, rank=rank, world_size=world_size, port=port) for rank in range(world_size)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], "\n".join(outputs)


def wait_for_step(task_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until this many steps are logged."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        if (task_dir / "metrics.jsonl").is_file() and len(rows(task_dir)) >= step:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    raise AssertionError("no progress")


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_bad_image_is_replaced_and_counted(data_root: Path, tmp_path: Path, world_size: int) -> None:
    """The run finishes with as many steps, on one rank or two, and its result and its log tell of the bad image."""
    spoil(data_root, 5)
    run_dir = tmp_path / "run"
    output = train(words(data_root, run_dir), world_size=world_size)
    result = json.loads((run_dir / "pretrain" / "result.json").read_text())
    assert len(losses(run_dir / "pretrain")) == STEPS
    passes = STEPS * 16 / 96
    assert int(passes) <= result["images_replaced"] <= int(passes) + 1
    assert rows(run_dir / "pretrain")[-2]["images_replaced"] == result["images_replaced"]
    if world_size == 1:
        assert f"replaced by the next image (1 so far): shard '{shard(data_root)}', sample" in output


def test_many_bad_images_end_the_run_on_every_rank(data_root: Path, tmp_path: Path) -> None:
    """Both ranks leave together with exit code 3; what was trained is saved, and mended data continues it."""
    whole = shard(data_root).read_bytes()
    times = shard(data_root).stat()
    spoil(data_root, *range(0, 24, 3))
    run_dir = tmp_path / "run"
    codes, output = run_to_its_end(words(data_root, run_dir), world_size=2)
    assert codes == [3, 3], output
    assert "images could not be used and were replaced, more than the" in output
    assert f"shard '{shard(data_root)}', sample" in output
    assert "Traceback" not in output
    status = read_status(run_dir / "pretrain")
    assert status.state == "failed"
    assert status.error.startswith("data: ")
    shard(data_root).write_bytes(whole)
    os.utime(shard(data_root), ns=(times.st_atime_ns, times.st_mtime_ns))
    output = train(words(data_root, run_dir), world_size=2)
    assert read_status(run_dir / "pretrain").state == "finished"
    assert [row["step"] for row in rows(run_dir / "pretrain") if "loss" in row] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 1)])
def test_a_shard_lost_while_training_saves_and_ends_every_rank(
    data_root: Path, tmp_path: Path, world_size: int, num_workers: int
) -> None:
    """The step that was reached is kept; with the shard back, the rest is what an undisturbed run gives."""
    undisturbed = tmp_path / "undisturbed"
    train(words(data_root, undisturbed))
    whole, times = shard(data_root, 1).read_bytes(), shard(data_root, 1).stat()
    run_dir = tmp_path / "run"
    command = words(data_root, run_dir, f"data.num_workers={num_workers}", "checkpoint.every=0")
    port = free_port()
    processes = [start(command, rank=rank, world_size=world_size, port=port) for rank in range(world_size)]
    wait_for_step(run_dir / "pretrain", 1, processes[0])
    os.truncate(shard(data_root, 1), 0)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    shard(data_root, 1).write_bytes(whole)
    os.utime(shard(data_root, 1), ns=(times.st_atime_ns, times.st_mtime_ns))
    codes = [process.returncode for process in processes]
    assert codes == [3] * world_size, outputs
    assert f"'{shard(data_root, 1)}' became shorter while in use (saved at step" in outputs[0]
    assert read_status(run_dir / "pretrain").state == "failed"
    train(command, world_size=world_size)
    assert losses(run_dir / "pretrain") == pytest.approx(losses(undisturbed / "pretrain"), rel=1e-4)


def test_a_killed_worker_is_named_and_loses_nothing(data_root: Path, tmp_path: Path) -> None:
    """As when memory is short: one line with how the worker ended, a checkpoint, and the same command goes on."""
    run_dir = tmp_path / "run"
    command = words(data_root, run_dir, "data.num_workers=1", "pretrain.steps=150", "checkpoint.every=0")
    process = start(command)
    wait_for_step(run_dir / "pretrain", 3, process)
    trainer = psutil.Process(process.pid)
    (worker,) = [child for child in trainer.children() if child.cmdline() == trainer.cmdline()]  # as a fork has it
    worker.send_signal(signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 3, output
    assert "a data-loading process died (killed by SIGKILL)" in output
    assert "Traceback" not in output
    status = read_status(run_dir / "pretrain")
    assert (status.state, status.step) == ("failed", len(losses(run_dir / "pretrain")))
    assert "continuing from step" in train(command)


@pytest.mark.parametrize("said", ["Pin memory thread exited unexpectedly", "DataLoader worker (pid 7) is killed"])
def test_a_worker_that_dies_while_it_hands_over_a_batch(said: str) -> None:
    """What torch raises then, on GPUs in the name of a thread of its own, is data that is lost, which saves."""

    class Dying(Dataset[int]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> int:
            raise RuntimeError(said)

    with pytest.raises(DataError, match="a data-loading process died"):
        list(worker_loader(Dying(), num_workers=0))


def test_a_task_does_not_continue_on_another_data_set(data_root: Path, tmp_path: Path) -> None:
    """Classes in another order would make every learned label wrong: refused before anything is loaded."""
    run_dir = tmp_path / "run"
    command = words(data_root, run_dir)
    process = start([*command, "checkpoint.every=1"])
    wait_for_step(run_dir / "pretrain", 3, process)
    process.kill()
    process.communicate()
    info = json.loads((data_root / "digits" / "_info.json").read_text())
    info["class_names"].reverse()
    (data_root / "digits" / "_info.json").write_text(json.dumps(info))
    codes, output = run_to_its_end(command)
    assert codes == [2]
    assert "began on a data set 'digits' with other class_names; bring that one back" in output


@pytest.mark.parametrize("stage", [0, 3])
def test_a_bad_validation_image_ends_every_rank(data_root: Path, tmp_path: Path, stage: int) -> None:
    """One rank cannot read its part: both leave with its reason, and mended data needs the evaluation alone."""
    path = data_root / "digits" / "validation-000000.tar"
    whole, times = path.read_bytes(), path.stat()
    start_of_last = whole.rindex(b"validation_00000021.png")
    damaged = whole[:start_of_last] + whole[start_of_last:].replace(b"\x89PNG", b"JUNK", 1)
    path.write_bytes(damaged)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    run_dir = tmp_path / "run"
    command = words(data_root, run_dir, f"engine.ds_config=zero{stage}", "checkpoint.every=0")
    codes, output = run_to_its_end(command, world_size=2)
    assert codes == [3, 3], output
    assert "sample 'validation_00000021': the image cannot be decoded" in output
    assert "(in evaluation, where nothing is replaced; training is saved)" in output
    assert read_status(run_dir / "pretrain").state == "failed"
    path.write_bytes(whole)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert f"continuing from step {STEPS} of {STEPS}" in train(command, world_size=2)
    assert len(losses(run_dir / "pretrain")) == STEPS
