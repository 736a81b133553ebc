"""Which tasks are measured."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_study import read_launch

from nepa_scale.config import overrides, validate
from nepa_scale.config.overrides import parse
from sweeps.calibrate.shapes import short_config, unmeasured
from sweeps.plan.machine import Placements
from sweeps.plan.measured_times import Measurement, Measurements
from sweeps.plan.run_specs import expand
from sweeps.plan.timing import Counts, ShortRun, Timing, counts

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
