"""Numbers and tables as people read them."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nepa_scale.run_dir.status import Status
from nepa_scale.utils.files import write_json
from sweeps.follow import display
from sweeps.follow.display import accuracy_table, outcomes
from sweeps.jobs.task_status import TaskStatus
from sweeps.plan.plan import Plan, PlannedRun, PlannedTask, count_text, duration_text

TASK = PlannedTask(params_total=200, params_backbone=100, images=50, flops=10**9, memory_bytes=2**20, seconds=61.0)
RUN = PlannedRun("femto-p8-0", "femto", "pretrain", {"model.size": "femto"}, {"pretrain": TASK, "segment": TASK})
PLAN = Plan("demo", "model_size", ("model.size",), (RUN,))


@pytest.mark.parametrize(
    ("number", "text"),
    [(7, "7"), (950, "950"), (1000, "1k"), (81_300, "81.3k"), (1.117e6, "1.12M"), (2e9, "2G")],
)
def test_counts(number: float, text: str) -> None:
    """Counts have three digits and a unit."""
    assert count_text(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1.0 min"),
        (720, "12 min"),
        (5400, "1.5 h"),
        (259200, "3.0 d"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    """Times have the unit a person would choose; an unknown one is a question mark."""
    assert duration_text(seconds) == text


def test_labels_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    """A label in brackets is no markup: in tables, in lines, and in the progress of tasks."""
    label = "femto [v1] [/x] :smile:"
    plan = dataclasses.replace(PLAN, study="[demo]", runs=(dataclasses.replace(RUN, label=label),))
    unknown = {"loss": None, "images_per_second": None, "eta_seconds": None, "reason": None, "updated_at": None}
    tasks = [TaskStatus(RUN.run_id, label, task, "running", 1, 2, 1, **unknown) for task in RUN.tasks]
    console = display.make_console()
    console.print(display.status_table(plan, tasks))
    console.print(display.running_table(plan, tasks))
    display.Progressing(console, 1).start(f"{label} pretrain")
    shown = capsys.readouterr().out
    assert "[demo] study" in shown and shown.count(label) == 4


def printed(table: object) -> list[list[str]]:
    """The cells of a table on paper, line by line."""
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    file = console.file
    return [line.split() for line in file.getvalue().splitlines()] if isinstance(file, io.StringIO) else []


def test_results_table_shows_what_there_is(tmp_path: Path) -> None:
    """Metrics of finished tasks stand beside their no-learning answer; the rest stays empty."""
    metrics = {"miou": 0.25, "miou_majority": 0.08}
    write_json(tmp_path / "runs" / RUN.run_id / "segment" / "result.json", {"metrics": metrics})
    line = printed(display.results_table(PLAN, tmp_path))[-1]
    assert line == ["femto", "100", "0.250", "0.080"]


def test_results_table_shows_a_shared_pretraining(tmp_path: Path) -> None:
    """A run without a pre-training of its own shows the skill of the one it uses."""
    write_json(tmp_path / "runs" / "other" / "pretrain" / "result.json", {"metrics": {"skill": 0.5}})
    shared = dataclasses.replace(PLAN, runs=(dataclasses.replace(RUN, pretrained_by="other"),))
    assert printed(display.results_table(shared, tmp_path))[-1] == ["femto", "100", "0.500"]


def test_progress_in_plain_lines() -> None:
    """Without a terminal every start and end is a line with the count of tasks done, brackets and all."""
    console = Console(file=io.StringIO(), width=30, markup=False)
    progress = display.Progressing(console, 2)
    progress.start("femto pretrain")
    progress.end("femto pretrain", Status("failed"), ": [x] is not a number and the line is long")
    progress.end("femto segment", Status("failed"), ": not started")
    progress.close()
    file = console.file
    lines = file.getvalue().splitlines() if isinstance(file, io.StringIO) else []
    assert lines == [
        "[0/2] start     femto pretrain",
        "[1/2] failed    femto pretrain after 0 s: [x] is not a number and the line is long",
        "[2/2] failed    femto segment: not started",
    ]


def test_time_of_a_task_includes_its_start_up() -> None:
    """A task that trained for no time after 27 s of imports took 27 s."""
    console = Console(file=io.StringIO(), width=80)
    progress = display.Progressing(console, 1)
    progress.start("femto pretrain", age=27.2)
    progress.end("femto pretrain", Status("finished"))
    progress.close()
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[-1] == "[1/1] finished  femto pretrain after 27 s"


def test_failure_lines_name_logs_that_exist(tmp_path: Path) -> None:
    """A failed task's line names its log; one that never ran has none."""
    log = tmp_path / "log.err"
    log.touch()
    lines = display.failure_lines([("a", "boom", log), ("bb", "not started", tmp_path / "none")])
    assert lines == [f"failed  a   boom  (log: {log})", "failed  bb  not started"]


ESTIMATE = PlannedTask(1, 1, 1, flops=1000, memory_bytes=90, seconds=60.0, calibrated=True)
RUNS = tuple(PlannedRun(name, name, "pretrain", {}, {"pretrain": ESTIMATE, "probe": ESTIMATE}) for name in ("a", "b"))
ESTIMATED = Plan("demo", "model_size", ("model.size",), RUNS)
RESULT = {"wall_seconds": 70.0, "startup_seconds": 10.0, "flops_train": 1000, "peak_memory_bytes": 100}


def rows(plan: Plan, study_dir: Path) -> list[str]:
    """The lines of the table, without title and heading."""
    console = Console(file=io.StringIO(), width=120)
    console.print(accuracy_table(outcomes(plan, study_dir)))
    file = console.file
    lines = file.getvalue().splitlines() if isinstance(file, io.StringIO) else []
    return [" ".join(line.split()) for line in lines[2:]]


def finish(study_dir: Path, run: str, task: str, **changes: Any) -> None:
    """Write the result of a task."""
    write_json(study_dir / "runs" / run / task / "result.json", RESULT | changes)


def test_finished_tasks_alone_are_compared(tmp_path: Path) -> None:
    """Time counts start-up and adds up by task; the others wait for their results."""
    assert outcomes(ESTIMATED, tmp_path) == []
    finish(tmp_path, "a", "pretrain")
    finish(tmp_path, "b", "pretrain", wall_seconds=30.0, peak_memory_bytes=75)
    assert rows(ESTIMATED, tmp_path) == ["pretrain 2 2.0 min 2.0 min 100% equal 90% to 120%"]


def test_one_flop_more_is_told(tmp_path: Path) -> None:
    """FLOPs are equal or they are not."""
    finish(tmp_path, "a", "pretrain", flops_train=1001)
    finish(tmp_path, "b", "probe")
    assert rows(ESTIMATED, tmp_path) == [
        "pretrain 1 1.0 min 1.3 min 75% 1 differ 90% to 90%",
        "probe 1 1.0 min 1.3 min 75% equal 90% to 90%",
        "all 2 2.0 min 2.7 min 75% 1 differ 90% to 90%",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"calibrated": False}, "pretrain (not calibrated) 1 1.0 min 1.3 min 75% equal 90% to 90%"),
        ({"seconds": None}, "pretrain 1 ? 1.3 min ? equal 90% to 90%"),
    ],
)
def test_how_times_were_estimated_is_told(tmp_path: Path, changes: dict[str, Any], line: str) -> None:
    """Estimates from FLOPs alone are lines of their own, and unknown ones are no zeros."""
    finish(tmp_path, "a", "pretrain")
    task = dataclasses.replace(ESTIMATE, **changes)
    plan = dataclasses.replace(ESTIMATED, runs=(dataclasses.replace(RUNS[0], tasks={"pretrain": task}),))
    assert rows(plan, tmp_path) == [line]


def test_results_of_earlier_versions_have_no_start_up(tmp_path: Path) -> None:
    """Their wall clock alone is compared."""
    finish(tmp_path, "a", "pretrain", startup_seconds=None)
    assert outcomes(ESTIMATED, tmp_path)[0].seconds == 70.0
