"""The tasks' specs agree with the settings, the tasks' classes and one another."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nepa_scale.config import registry
from nepa_scale.config.registry import SPECS, TASKS, TaskSpec, spec
from nepa_scale.config.schema import RunConfig


def test_tasks_come_in_the_order_of_a_run() -> None:
    """Tables, plans and jobs go through the tasks in this order, and results on disk have these names."""
    assert TASKS == ("pretrain", "probe", "classify", "segment")
    assert [task.name for task in registry.downstream()] == ["probe", "classify", "segment"]
    assert [task.name for task in registry.finetuned()] == ["classify", "segment"]
    assert [task.name for task in registry.labelled()] == ["probe", "classify", "segment"]
    assert [task.name for task in registry.with_error()] == ["classify", "segment", "pretrain"]


@pytest.mark.parametrize("task", SPECS.values(), ids=TASKS)
def test_a_spec_agrees_with_the_settings(task: TaskSpec) -> None:
    """The section of a task is of the class that its spec names, and has what metrics are on condition of."""
    assert spec(task.name) is task
    assert type(RunConfig().task_config(task.name)) is task.section
    section = task.section()
    assert all(hasattr(section, metric.requires) for metric in task.metrics if metric.requires is not None)


@pytest.mark.parametrize("task", SPECS.values(), ids=TASKS)
def test_a_headline_is_one_of_the_metrics(task: TaskSpec) -> None:
    """What a task is known by, its baseline and its value on the tuning images are metrics of the task."""
    headline, keys = task.headline, [metric.key for metric in task.metrics]
    assert len(set(keys)) == len(keys)
    assert {headline.metric, headline.baseline, headline.tuning} - {None} <= set(keys)


def test_only_losses_are_better_when_lower() -> None:
    """The direction of a metric is the registry's."""
    assert registry.lower_is_better("loss")
    assert not registry.lower_is_better("top1")
    assert not registry.lower_is_better("no such metric")


def test_the_registry_is_free_of_torch() -> None:
    """Plans and reports ask the registry, and neither may wait for torch."""
    code = "import sys, nepa_scale.config.registry; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
