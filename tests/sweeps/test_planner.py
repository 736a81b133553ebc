"""Which runs are predicted, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
from plain_study import read_launch

from nepa_scale.run_dir.status import Status, write_status
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.machine import Placements, Speed
from sweeps.plan.plan import Plan
from sweeps.plan.run_specs import expand, price
from sweeps.planner import equal_budgets, largest, not_started


def plan_of(*words: str) -> Plan:
    """The plan of a command line."""
    launch = read_launch((*words, "study.tasks=[pretrain,classify]"))
    return price(launch, expand(launch), Speed(1e9, 1.0, ""), Placements(launch.cluster))


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["study.sizes=[pico,micro,femto]"], ["micro"]),
        (["study.sizes=[femto,pico]", "seeds=2"], ["pico", "pico"]),
        (["grid=data_size", "study.data_sizes=[256,1024]"], ["num_images=1024"]),
        (
            ["grid=isoflop", "study.sizes=[femto,pico,nano]", "study.budgets=[1e11,1e12]"],
            ["femto 1e+12 FLOPs", "pico 1e+12 FLOPs", "nano 1e+12 FLOPs"],
        ),
    ],
)
def test_the_largest_are_held_back(words: list[str], labels: list[str]) -> None:
    """Those of most pre-training compute, every seed of them and every size of a budget; controls wait for nothing."""
    held = largest(plan_of(*words), equal=equal_budgets(read_launch(words)))
    assert [run.label for run in held.values()] == labels
    assert {run.init for run in held.values()} == {"pretrain"}


def test_a_grid_that_scales_nothing_has_no_largest_run() -> None:
    """All learning rates cost the same: there is no law to check."""
    with pytest.raises(ConfigError, match="grid=lr scales nothing"):
        largest(plan_of("grid=lr", "study.lr_sizes=[femto]"))


def test_a_run_that_has_begun_is_not_predicted(tmp_path: Path) -> None:
    """Waiting in line is no beginning; a step is."""
    held = largest(plan_of("study.sizes=[femto,pico]"))
    (run_id,) = held
    assert list(held.values()) == not_started(held, tmp_path)
    write_status(tmp_path / "runs" / run_id / "pretrain", Status("planned"))
    assert list(held.values()) == not_started(held, tmp_path)
    write_status(tmp_path / "runs" / run_id / "pretrain", Status("preempted", step=3, steps_total=9))
    assert not_started(held, tmp_path) == []
