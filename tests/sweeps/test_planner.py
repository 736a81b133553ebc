"""Which runs are predicted, and when."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from plain_study import read_launch

from analysis.findings.preregistration import Candidate
from analysis.study.files import PREDICTIONS, predicted_runs
from nepa_scale.run_dir.status import Status, write_status
from nepa_scale.utils.errors import ConfigError
from nepa_scale.utils.files import write_json
from sweeps.plan import plan
from sweeps.plan.machine import Placements, Speed
from sweeps.plan.plan import Plan, PlannedRun
from sweeps.plan.run_specs import expand, price
from sweeps.planner import PlannedLaunch, equal_budgets, largest, not_started, plan_launch, register
from sweeps.settings.schema import Launch


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
        (["grid=objectives", "study.sizes=[femto,pico]"], ["next embeddings pico"]),
        (
            ["grid=isoflop", "study.sizes=[femto,pico,nano]", "study.budgets=[1e11,1e12]"],
            ["femto 1e+12 FLOPs", "pico 1e+12 FLOPs", "nano 1e+12 FLOPs"],
        ),
    ],
)
def test_the_largest_are_held_back(words: list[str], labels: list[str]) -> None:
    """Those of most pre-training compute, every seed of them and every size of a budget, of the objective that the laws
    are about; controls wait for nothing."""
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


def end(run: PlannedRun, task: str, study_dir: Path, status: Status) -> None:
    """Let a task be in this state; a finished one has a result."""
    folder = study_dir / "runs" / run.run_id / task
    write_status(folder, status)
    if status.state == "finished":
        write_json(folder / "result.json", {})


SHARED = ("study.tasks=[pretrain,classify]", "cluster.flops_per_second=1e10", "dry_run=true")


@pytest.mark.parametrize("earlier", ["[nano]", "[femto,nano,pico]"])
def test_pretraining_of_an_earlier_launch_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: str) -> None:
    """The largest run is the largest, and is predicted at its FLOPs, whoever did its pre-training and when."""
    words = (*SHARED, f"study_dir={tmp_path}")
    first = plan_launch(read_launch((*words, f"study.sizes={earlier}"))).plan
    plan.save(first, tmp_path)
    for run in first.runs:
        if "pretrain" in run.tasks:
            end(run, "pretrain", tmp_path, Status("finished", 9, 9))
    later = plan_launch(read_launch((*words, "study.sizes=[femto,nano,pico]", "classify.steps=9", "predict=true")))
    (held,) = later.held.values()
    owner = next(run for run in first.runs if run.label == "nano" and "pretrain" in run.tasks)
    assert (held.label, held.pretrained_by) == ("nano", owner.run_id)
    found: list[Candidate] = []

    def noted(_: Any, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
        found.extend(candidates)
        return []

    monkeypatch.setattr("analysis.findings.preregistration.expectations", noted)
    register(later.plan, [held], tmp_path, tmp_path)
    assert [candidate.pretrain_flops for candidate in found] == [owner.tasks["pretrain"].flops]


@pytest.mark.parametrize("begun", [0, 1, 2])
def test_what_another_launch_starts_meanwhile_is_not_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], begun: int
) -> None:
    """While the smaller runs train another shell may start some of those held back: only the others are predicted."""
    request = read_launch((*SHARED, f"study_dir={tmp_path}", "study.sizes=[femto,pico]", "seeds=2", "predict=true"))
    prepared = plan_launch(request)
    late = list(prepared.held.values())[:begun]
    calls = list[Collection[str] | None]()

    def carried_out(request: Launch, prepared: PlannedLaunch, run_ids: Collection[str] | None = None) -> int:
        calls.append(run_ids)
        plan.save(prepared.plan, request.study_dir)
        for run in prepared.plan.runs:
            for task in run.tasks if run.run_id in (run_ids or ()) else ():
                end(run, task, request.study_dir, Status("finished", 9, 9))
        for run in late:
            end(run, "pretrain", request.study_dir, Status("running", 1, 9))
        return 0

    importlib.import_module("sweeps.launch")
    launch = sys.modules["sweeps.launch"]
    monkeypatch.setattr(launch, "_carry_out", carried_out)
    assert launch._predict_and_carry_out(request, prepared) == 0
    assert len(calls) == 2 and calls[1] is None
    assert predicted_runs(tmp_path) == set(prepared.held) - {run.run_id for run in late}
    assert (tmp_path / PREDICTIONS).exists() == (begun < 2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("predict=true: ")]
    assert [all(run.name in line for run in late) for line in lines] == [True] * (begun > 0)
