"""Which tasks cancel and retry are about, and what they say to mistakes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nepa_scale.run_dir.status import Status, read_status, write_status
from nepa_scale.utils.errors import UserError
from sweeps.jobs.jobs import Selection
from sweeps.plan import plan
from sweeps.plan.plan import Plan, PlannedRun, PlannedTask, save_cluster
from sweeps.settings.schema import LocalSettings

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COST = PlannedTask(params_total=200, params_backbone=100, images=50, flops=10**9, memory_bytes=2**20, seconds=61.0)


@pytest.fixture
def planned(tmp_path: Path) -> Plan:
    """Two sizes from two seeds, of two tasks each, in the folder ``out``."""
    runs = tuple(
        PlannedRun(f"{size}-{seed}", size, "pretrain", {"seed": seed}, {"pretrain": COST, "classify": COST})
        for size in ("femto", "pico")
        for seed in (0, 1)
    )
    made = Plan("demo", "model_size", ("seed",), runs)
    plan.save(made, tmp_path / "out")
    save_cluster(LocalSettings(), tmp_path / "out")
    return made


@pytest.mark.parametrize(
    ("run", "task", "expected"),
    [
        (None, "classify", ["femto-0/classify", "femto-1/classify", "pico-0/classify", "pico-1/classify"]),
        ("femto", "pretrain", ["femto-0/pretrain", "femto-1/pretrain"]),
        ("femto seed 1", None, ["femto-1/pretrain", "femto-1/classify"]),
        ("*-0", "pretrain", ["femto-0/pretrain", "pico-0/pretrain"]),
    ],
)
def test_patterns(planned: Plan, run: str | None, task: str | None, expected: list[str]) -> None:
    """A run goes by its label, by label and seed, or by its run_id."""
    assert Selection(study_dir=Path("out"), run=run, task=task).keys(planned) == expected


def test_a_name_with_brackets_selects_itself() -> None:
    """A label is found as it is printed, signs of patterns in it included."""
    runs = tuple(
        PlannedRun(str(i), label, "pretrain", {}, {"pretrain": COST}) for i, label in enumerate(["ViT [v1]", "[/c]*?"])
    )
    planned = Plan("demo", "seeds", (), runs)
    for run in runs:
        assert Selection(study_dir=Path("out"), run=run.label).keys(planned) == [f"{run.run_id}/pretrain"]


def test_a_pattern_that_fits_nothing(planned: Plan) -> None:
    """The runs that are there are named, the nearest first."""
    with pytest.raises(UserError, match=r"run=pcio: no such task in out; did you mean 'pico.*runs: femto seed 0"):
        Selection(study_dir=Path("out"), run="pcio").keys(planned)


@pytest.mark.parametrize("script", ["cancel.py", "retry.py"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out", "rnu=femto"], "did you mean 'run'"),
        (["out", "task=clasify"], "did you mean 'classify'"),
        (["out", "other"], "'other': expected key=value"),
        (["elsewhere"], "elsewhere: no study here"),
    ],
)
@pytest.mark.usefixtures("planned")
def test_mistakes_are_one_line(run: Run, script: str, words: list[str], message: str) -> None:
    """Exit code 2 and what would be right."""
    done = run(script, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert f"python sweeps/{script}" in run(script, "--help").stdout


@pytest.mark.usefixtures("planned")
def test_what_is_not_under_way_is_cancelled_at_once(run: Run, tmp_path: Path) -> None:
    """Without a queue the tasks named, and what waits for them, fail as cancelled; finished ones and others stay."""
    runs = tmp_path / "out" / "runs"
    write_status(runs / "femto-0" / "pretrain", Status("preempted", step=5, steps_total=9))
    done = run("cancel.py", "out", "run=femto*", "task=pretrain")
    assert (done.returncode, done.stdout.partition(";")[0]) == (0, "cancelled: 4 tasks")
    for seed in (0, 1):
        for task in ("pretrain", "classify"):
            status = read_status(runs / f"femto-{seed}" / task)
            assert status is not None and (status.state, status.error) == ("failed", "cancelled")
    assert read_status(runs / "pico-0" / "pretrain") is None
