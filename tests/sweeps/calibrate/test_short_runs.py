"""The short runs that are measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from nepa_scale.config import overrides, validate
from nepa_scale.config.overrides import parse
from sweeps.calibrate.shapes import short_config
from sweeps.plan.timing import Counts, ShortRun, counts

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
