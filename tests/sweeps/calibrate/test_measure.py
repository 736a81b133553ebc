"""Measurements by real trainings, here and on a real Slurm."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from plain_study import read_launch
from slurm_cluster import VirtualCluster

from nepa_scale.data.digits import write_digits
from nepa_scale.utils.errors import UserError
from sweeps.calibrate.measure import run_here, run_on_slurm
from sweeps.calibrate.shapes import Shape, unmeasured
from sweeps.plan.machine import Placements, Slots
from sweeps.plan.measured_times import Measurements
from sweeps.plan.run_specs import expand
from sweeps.plan.timing import Counts, ShortRun
from sweeps.settings.schema import SlurmSettings

COUNTS = Counts(steps=30, saves=0, evaluations=0)


@pytest.fixture(autouse=True)
def own_book(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Other tests' studies on this machine are nothing to wait for."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def one_shape(root: Path, *words: str) -> tuple[Shape, ShortRun]:
    """The smallest pre-training on a handful of images."""
    write_digits(root, num_train=64, num_validation=16, shard_size=32)
    study = ("study.sizes=[femto]", "study.tasks=[pretrain]", "study.scratch_control=false", "log.tensorboard=false")
    launch = read_launch((*study, f"data.root={root}", "pretrain.eval_every=0", *words))
    (shape,) = unmeasured(expand(launch), Placements(launch.cluster), Measurements({}))
    return shape, ShortRun(5, evaluates=False)


@pytest.mark.slow
def test_two_copies_of_two_processes_each(tmp_path: Path) -> None:
    """Every slot has its copy with all its ranks; the parts add up to no more than was waited for; nothing is left."""
    pair = one_shape(tmp_path / "data")
    before = time.perf_counter()
    (found,) = run_here([pair], Slots(2, 2, (), processes=2), tmp_path / "cache")
    assert 1.0 < found.timing.seconds(COUNTS) < time.perf_counter() - before + 1.0
    assert found.timing.startup > 10 * found.timing.step > 0
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_a_task_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    """The first error of the trainer itself, and no measurement of it."""
    pair = one_shape(tmp_path / "data")
    for shard in (tmp_path / "data" / "digits").glob("train-*.tar"):
        shard.write_bytes(b"")
    with pytest.raises(UserError, match=r"calibrating femto pretrain: .*train-000000\.tar"):
        run_here([pair], Slots(1, 1, ()), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_a_job_of_two_nodes_is_measured_where_it_will_run(slurm_cluster: VirtualCluster, tmp_path: Path) -> None:
    """On a real Slurm, as one job of the study's shape, which is gone from the queue when the command returns."""
    settings = SlurmSettings(kind="slurm", nodes=2, tasks_per_node=1, cpus_per_task=1, mem_gb=3, timeout_min=15)
    words = ("cluster=slurm", "cluster.nodes=2", "cluster.tasks_per_node=1")
    shape, short = one_shape(tmp_path / "data", *words)
    assert shape.devices == 2
    (found,) = run_on_slurm([(shape, short)], settings, tmp_path / "cache")
    assert found.timing.startup > 10 * found.timing.step > 0
    assert list((tmp_path / "cache").iterdir()) == []
