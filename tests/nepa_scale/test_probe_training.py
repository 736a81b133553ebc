"""Whole probes in their own processes: the same figures on one rank and on two, and after a kill."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from launching import losses, start, train

from nepa_scale.data.prepare.digits import write_digits

pytestmark = pytest.mark.slow
STEPS = 12


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of digit scenes; neither split divides by two ranks."""
    root = tmp_path_factory.mktemp("data")
    write_digits(root, num_train=151, num_validation=53)
    return root


def words(data_root: Path, run_dir: Path, *extra: str) -> list[str]:
    """A short probe of every layer that logs every step."""
    return [
        "task=probe",
        "model.size=femto",
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        f"data.root={data_root}",
        f"run_dir={run_dir}",
        "pretrain.steps=10",
        "pretrain.batch_size=16",
        f"probe.steps={STEPS}",
        "probe.batch_size=16",
        "probe.layers=all",
        "log.every=1",
        "log.tensorboard=false",
        "log.pictures=0",
        "checkpoint.every=3",
        *extra,
    ]


def metrics(run_dir: Path) -> dict[str, float]:
    """What the probe found."""
    found: dict[str, Any] = json.loads((run_dir / "probe" / "result.json").read_text())
    return found["metrics"]


@pytest.fixture(scope="module")
def reference(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-training and its probe in one process, never disturbed."""
    run_dir = tmp_path_factory.mktemp("reference")
    for task in ("pretrain", "probe"):
        train([f"task={task}", *words(data_root, run_dir)[1:]])
    return run_dir


@pytest.mark.parametrize("stage", [1, 3])
def test_two_ranks_equal_one_process(stage: int, data_root: Path, reference: Path, tmp_path: Path) -> None:
    """Frozen weights, standardisation and the neighbours' search survive being spread over ranks and ZeRO stages."""
    train(words(data_root, tmp_path, f"init={reference}", f"engine.ds_config=zero{stage}"), world_size=2)
    assert losses(tmp_path / "probe") == pytest.approx(losses(reference / "probe"), rel=1e-5)
    assert metrics(tmp_path) == pytest.approx(metrics(reference), rel=1e-5)
    files = [safetensors.torch.load_file(run_dir / "probe" / "model.safetensors") for run_dir in (reference, tmp_path)]
    assert files[0].keys() == files[1].keys()
    for name, value in files[0].items():
        # By the norm: Adam makes a whole step of the rounding in a gradient that is nearly zero.
        assert (files[1][name] - value).norm() < 1e-4 * value.norm() + 1e-7, name


def test_kill_and_continue(data_root: Path, reference: Path, tmp_path: Path) -> None:
    """After kill -9 the same command goes on from the last checkpoint to the same heads."""
    command = words(data_root, tmp_path, f"init={reference}", "engine.ds_config=zero3")
    process = start(command)
    deadline = time.monotonic() + 120
    while len(losses(tmp_path / "probe") if (tmp_path / "probe" / "metrics.jsonl").is_file() else []) < 5:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert "continuing from step" in train(command)
    assert losses(tmp_path / "probe") == pytest.approx(losses(reference / "probe"), rel=1e-5)
    assert metrics(tmp_path) == pytest.approx(metrics(reference), rel=1e-5)
