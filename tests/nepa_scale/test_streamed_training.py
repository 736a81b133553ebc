"""Trainings that stream their shards: resumed, on two ranks, and evaluated by any number of ranks."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
from launching import losses, rows, start, train, wait_for_step
from small_tasks import CPU, config_of, images_of

from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.distributed.world import World
from nepa_scale.tasks.classify import Classify

STEPS = 20


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digit scenes: 96 in 8 training shards, 37 in 4 validation shards."""
    root = tmp_path_factory.mktemp("data")
    write_digits(root, num_train=96, num_validation=37, shard_size=12)
    return root


class InFours(Classify):
    """Evaluate four images at a time."""

    eval_batch_size = 4  # type: ignore[assignment]


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_ranks_share_the_validation_shards(data_root: Path, size: int) -> None:
    """Over all ranks each image counts once, and all ranks make equally many passes, also one without a shard."""
    indexed = InFours(config_of(data_root, "classify", "init=scratch"), None)
    task = InFours(config_of(data_root, "classify", "init=scratch", "data.streaming=true"), None)
    passes, seen = set(), Counter[bytes]()
    for rank in range(size):
        batches = list(task.evaluation_batches(World(rank=rank, size=size), CPU))
        passes.add(len(batches))
        seen.update(image.numpy().tobytes() for (images, _), counts in batches if counts for image in images)
    assert seen == Counter(image.numpy().tobytes() for image, _ in images_of(indexed))
    assert passes == {max(math.ceil(sum((12, 12, 12, 1)[rank::size]) / 4) for rank in range(size))}


def test_metrics_are_those_of_reading_by_index(data_root: Path) -> None:
    """A streamed evaluation gives the same figures."""
    words = ["classify", "init=scratch"]
    indexed, streamed = (InFours(config_of(data_root, *words, *extra), None) for extra in ([], ["data.streaming=true"]))
    streamed.module.load_state_dict(indexed.module.state_dict())
    assert streamed.evaluate(World(), CPU) == pytest.approx(indexed.evaluate(World(), CPU), abs=1e-6)


def words(data_root: Path, run_dir: Path, *extra: str) -> list[str]:
    """A short streamed pre-training that logs every step."""
    return [
        "task=pretrain",
        "model.size=femto",
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        f"data.root={data_root}",
        "data.streaming=true",
        f"run_dir={run_dir}",
        f"pretrain.steps={STEPS}",
        "pretrain.batch_size=16",
        "pretrain.base_lr=3e-2",
        "log.every=1",
        "log.tensorboard=false",
        "checkpoint.every=3",
        *extra,
    ]


@pytest.mark.slow
def test_kill_and_continue(data_root: Path, tmp_path: Path) -> None:
    """With two workers, after kill -9 in a later epoch the same command goes on to the losses of an undisturbed run."""
    layout = ("data.num_workers=2", "micro_batch_size=8")
    train(words(data_root, tmp_path / "undisturbed", *layout))
    command = words(data_root, tmp_path / "killed", *layout)
    process = start(command)
    wait_for_step(tmp_path / "killed" / "pretrain", 8, process)
    process.kill()
    process.communicate()
    assert "continuing from step" in train(command)
    assert [row["step"] for row in rows(tmp_path / "killed" / "pretrain") if "loss" in row] == list(range(1, STEPS + 1))
    expected = losses(tmp_path / "undisturbed" / "pretrain")
    assert losses(tmp_path / "killed" / "pretrain") == pytest.approx(expected, rel=1e-5)
    assert expected[-1] < expected[0] - 0.05
    assert (tmp_path / "killed" / "pretrain" / "pictures.png").is_file()


@pytest.mark.slow
def test_two_ranks(data_root: Path, tmp_path: Path) -> None:
    """Two ranks with unequal validation shards train and evaluate to the end, ZeRO-3's collectives included."""
    train(words(data_root, tmp_path, "engine.ds_config=zero3"), world_size=2)
    assert len(losses(tmp_path / "pretrain")) == STEPS
    metrics = json.loads((tmp_path / "pretrain" / "result.json").read_text())["metrics"]
    assert metrics["loss"] < -0.1
