"""Which tasks are measured, and measurements by real trainings, here and on a real Slurm."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from plain_study import read_launch
from slurm_cluster import VirtualCluster

from nepa_scale.config import overrides, validate
from nepa_scale.config.overrides import parse
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.utils.errors import UserError
from sweeps.calibrate import Shape, ShortRun, run_here, run_on_slurm, short_config, unmeasured
from sweeps.plan.machine import Placements, Slots
from sweeps.plan.measured_times import Counts, Measurement, Measurements, Timing, counts
from sweeps.plan.run_specs import expand
from sweeps.settings.schema import SlurmSettings

COUNTS = Counts(steps=30, saves=0, evaluations=0)


@pytest.fixture(autouse=True)
def own_leases(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
@pytest.mark.long
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


NOTHING = Measurements({})


def labels(*words: str, known: Measurements = NOTHING) -> list[str]:
    """What a launch would measure."""
    launch = read_launch(words)
    return [shape.label for shape in unmeasured(expand(launch), Placements(launch.cluster), known)]


def test_the_ends_of_a_size_grid_are_measured() -> None:
    """Of every task the smallest and the largest size; controls and seeds are the same work."""
    words = ("study.sizes=[femto,pico,nano]", "study.tasks=[pretrain,classify]", "seeds=2")
    assert labels(*words) == ["femto pretrain", "nano pretrain", "femto classify", "nano classify"]


def test_sizes_far_apart_have_one_between_them() -> None:
    """A straight line over three orders of magnitude would be wrong in its middle."""
    words = ("study.sizes=[femto,pico,nano,micro,mini,tiny]", "study.tasks=[pretrain]", "study.scratch_control=false")
    assert labels(*words) == ["femto pretrain", "micro pretrain", "tiny pretrain"]


def test_lengths_need_one_measurement() -> None:
    """Data sizes and epochs change how many steps there are, not what one takes."""
    words = ("grid=data_size", "study.tasks=[pretrain]", "study.scratch_control=false")
    assert len(labels(*words)) == 1


def test_what_is_known_is_not_measured_again() -> None:
    """A second calibration measures what the first has not."""
    launch = read_launch(("study.sizes=[femto,nano]", "study.tasks=[pretrain]", "study.scratch_control=false"))
    first, _ = unmeasured(expand(launch), Placements(launch.cluster), NOTHING)
    known = Measurements({}, [Measurement(first.family, first.work, Timing(1, 1, 1, 1, 1), "", "")])
    words = ("study.sizes=[femto,nano]", "study.tasks=[pretrain]", "study.scratch_control=false")
    assert labels(*words, known=known) == ["nano pretrain"]


RUN = ShortRun(10, evaluates=True)


@pytest.mark.parametrize("task", ["pretrain", "classify"])
def test_a_short_run_is_the_same_work_but_shorter(task: str, tmp_path: Path) -> None:
    """Its length, log, checkpoints and evaluations are its own; batch, data and model are the run's; it reads back."""
    config = parse(["classify.epochs=7", "pretrain.epochs=9", "checkpoint.branch_from=elsewhere", f"task={task}"])
    short = short_config(config, task, RUN)
    section, before = short.task_config(), config.task_config()
    assert (section.steps, section.epochs, section.batch_size) == (60, None, before.batch_size)
    assert (short.model, short.data, short.engine) == (config.model, config.data, config.engine)
    assert counts(short, task, RUN.steps) == Counts(steps=60, saves=2, evaluations=1)
    assert short.checkpoint.branch_from is None
    assert short.init == ("pretrain" if task == "pretrain" else "scratch")
    overrides.save(short, tmp_path / "config.yaml")
    assert overrides.load(tmp_path / "config.yaml") == short


def test_milestones_do_not_end_a_measurement() -> None:
    """A run of sixty steps has reached nothing yet; where neighbours are asked, they are asked here, too."""
    config = parse(["pretrain.milestones={500: {skill: 0.9}, 900: {knn_top1: 0.9}}", "pretrain.steps=1000"])
    short = short_config(config, "pretrain", RUN)
    assert short.pretrain.milestones == "{60: {knn_top1: 0.0}}"
    assert validate.check_milestones(short, ("pretrain",)) == []
    config = parse(["pretrain.milestones={500: {skill: 0.9}}", "pretrain.steps=1000"])
    assert short_config(config, "pretrain", RUN).pretrain.milestones is None
