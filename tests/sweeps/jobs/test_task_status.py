"""How tasks stand, from their own files, and the command that shows it."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from children import Child

from nepa_scale.run_dir.status import Status, holder, write_status
from nepa_scale.utils.files import write_json
from sweeps import status
from sweeps.follow import display
from sweeps.jobs.task import CANCELLED, mark_cancelled
from sweeps.jobs.task_status import TaskStatus, last_record, task_statuses
from sweeps.local import runner
from sweeps.local import runner as executor_here
from sweeps.plan import plan
from sweeps.plan.plan import Plan, PlannedRun, PlannedTask, save_cluster
from sweeps.settings.schema import LocalSettings
from sweeps.slurm.job_states import ENDS

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COST = PlannedTask(params_total=200, params_backbone=100, images=50, flops=10**9, memory_bytes=2**20, seconds=61.0)


def make_study(study_dir: Path, count: int = 1) -> Plan:
    """A planned study of ``count`` runs of two tasks."""
    runs = tuple(
        PlannedRun(f"femto-{i}", f"femto {i}", "pretrain", {"seed": i}, {"pretrain": COST, "classify": COST})
        for i in range(count)
    )
    planned = Plan("demo", "model_size", ("seed",), runs)
    plan.save(planned, study_dir)
    return planned


def write_task(study_dir: Path, run: int, task: str, state: Status, rows: list[dict[str, float]]) -> Path:
    """Status and metrics of one task, as the trainer writes them."""
    task_dir = study_dir / "runs" / f"femto-{run}" / task
    write_status(task_dir, state)
    (task_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return task_dir


def dead_process() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


@pytest.mark.parametrize(
    ("state", "step", "text"),
    [
        ("planned", 0, "planned"),
        ("finished", 10, "finished"),
        ("running", 3, "running 3/10"),
        ("preempted", 3, "preempted 3/10"),
        ("lost", 3, "lost 3/10"),
    ],
)
def test_states(state: str, step: int, text: str) -> None:
    """A state carries its step where work is under way."""
    nothing = (None, None, None, None, None)
    assert display.state_text(TaskStatus("id", "femto", "pretrain", state, step, 10, 1, *nothing)) == text


def test_a_failure_of_a_known_kind_is_named() -> None:
    """What missed a milestone is told from what crashed; text that merely looks alike is not."""
    for error, text in {
        "milestone: skill is 0.1 after step 3, not at least 0.5 (pretrain.milestones)": "failed(milestone) 3/10",
        "collapsed: step 3: the target has collapsed": "failed(collapsed) 3/10",
        "diverged: steps 1 to 3 had no finite loss": "failed(diverged) 3/10",
        "oom: rank 1 on a, after step 3: out of memory": "failed(oom) 3/10",
        ENDS["NODE_FAIL"]: "failed(node failed) 3/10",
        ENDS["CANCELLED"]: "failed(cancelled) 3/10",
        CANCELLED: "failed(cancelled) 3/10",
        "not started: pretrain failed": "failed 3/10",
        "RuntimeError: milestone: no": "failed 3/10",
    }.items():
        task = TaskStatus("id", "femto", "pretrain", "failed", 3, 10, 1, None, None, None, error, None)
        assert display.state_text(task) == text


def test_step_speed_and_time_left(tmp_path: Path) -> None:
    """From the last whole training row: 6 steps of 8 images at 16 images/s are 3 s; evaluations do not count."""
    planned = make_study(tmp_path)
    rows = [
        {"step": 2, "images_seen": 16, "loss": -0.1, "images_per_second": 2.0},
        {"step": 4, "images_seen": 32, "loss": -0.5, "images_per_second": 16.0},
        {"step": 4, "images_seen": 32, "eval_loss": -0.4},
    ]
    task_dir = write_task(tmp_path, 0, "pretrain", Status("running", step=4, steps_total=10, attempt=1), rows)
    with (task_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "images_')
    first, second = task_statuses(planned, tmp_path)
    assert (first.step, first.loss, first.images_per_second, first.eta_seconds) == (4, -0.5, 16.0, 3.0)
    assert second.state == "planned" and second.eta_seconds is None


def test_last_record_of_a_long_file(tmp_path: Path) -> None:
    """Only the end is read, and a row cut in two by where reading began does not matter."""
    path = tmp_path / "metrics.jsonl"
    row = {"images_per_second": 1.0, "padding": "x" * 300}
    path.write_text("".join(json.dumps(row | {"step": i}) + "\n" for i in range(2000)))
    assert last_record(path)["step"] == 1999
    assert last_record(tmp_path / "none.jsonl") == {}


def test_a_process_that_went_without_a_word(tmp_path: Path) -> None:
    """Running on this machine with a dead process, or one that got its number later, is lost; alive it is believed."""
    planned = make_study(tmp_path)
    save_cluster(LocalSettings(), tmp_path)
    task_dir = write_task(tmp_path, 0, "pretrain", Status("running", step=4, steps_total=10), [])
    me = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    earlier = {"started": me["started"] - 60}
    for changed, state in (({}, "running"), ({"pid": dead_process()}, "lost"), (earlier, "lost")):
        (task_dir / ".lock.owner").write_text(json.dumps(me | changed))
        assert status.look(planned, tmp_path)[0].state == state


HOLD = """
import sys
from pathlib import Path
from nepa_scale.run_dir.status import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


START = """
import sys
from pathlib import Path
from sweeps.local import runner
runner.start(Path(sys.argv[1]))
"""


def test_what_a_launch_is_starting_is_not_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the first task in line to the end of the queue that works on it there is no moment at which a task shows as
    lost: a launcher puts tasks in line, then a queue begins, which takes its time."""
    planned = make_study(tmp_path)
    save_cluster(LocalSettings(), tmp_path)
    for task in ("pretrain", "classify"):
        write_task(tmp_path, 0, task, Status("submitted"), [])

    def states() -> set[str]:
        return {task.state for task in status.look(planned, tmp_path)}

    assert states() == {"lost"}
    launcher = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout is not None and launcher.stdout.readline() == "held\n"
    assert states() == {"submitted"}
    launcher.communicate("")
    assert states() == {"lost"}
    for task in ("pretrain", "classify"):
        mark_cancelled(tmp_path / "runs" / "femto-0" / task)  # so that the queue has nothing to do
    subprocess.run([sys.executable, "-c", START, str(tmp_path)], check=True)
    assert not runner.queue_dir(tmp_path).joinpath(".lock.owner").exists(), (
        "the queue has begun before this test looked"
    )
    assert states() == {"submitted"}
    assert status.main([str(tmp_path), "watch=true"]) == 0
    assert holder(runner.newcomer_dir(tmp_path)) is None
    assert "2 lost" in capsys.readouterr().out


def test_what_pre_trainings_under_way_will_end_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the table and as JSON; too early it is not yet, and forecast=false leaves it out.

    How good it is: tests/analysis/forecast/test_scheduled.py.
    """
    planned = make_study(tmp_path, 2)
    steps = range(10, 810, 10)
    for run, seen in ((0, 500), (1, 30)):
        rows = [
            {"step": step, "images_seen": 32 * step, "loss": 2 * step**-0.5 - 1, "images_per_second": 9.0}
            | {"lr": (1 + math.cos(math.pi * step / 800)) / 2}
            for step in steps
            if step <= seen
        ]
        write_task(tmp_path, run, "pretrain", Status("running", step=seen, steps_total=800), rows)
        (tmp_path / "runs" / f"femto-{run}" / "config.yaml").write_text("pretrain: {schedule: cosine}\n")
    told = [task.expected for task in status.look(planned, tmp_path, forecast=True)]
    assert told[0] is not None and told[2] is not None and told[1] is told[3] is None
    low, high = told[0]["loss"]["interval"]
    assert low < told[0]["loss"]["value"] < high and "evaluations" in told[0]["skill"]["reason"]
    assert "distinct x" in told[2]["loss"]["reason"]
    assert status.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "final loss" in shown and f"{told[0]['loss']['value']:.3f} (" in shown and "not yet" in shown
    assert status.main([str(tmp_path), "forecast=false"]) == 0
    assert "final loss" not in capsys.readouterr().out


def test_what_has_just_ended_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that ends, and its queue with it, between two looks shows as what it is."""
    planned = make_study(tmp_path)
    save_cluster(LocalSettings(), tmp_path)
    write_task(tmp_path, 0, "pretrain", Status("running", step=9, steps_total=10), [])

    def ends(folder: Path) -> bool:
        write_task(tmp_path, 0, "pretrain", Status("finished", step=10, steps_total=10), [])
        return False

    monkeypatch.setattr(executor_here, "is_in_use", ends)
    assert status.look(planned, tmp_path)[0].state == "finished"


def test_json_has_every_task(tmp_path: Path, run: Run) -> None:
    """A script reads state, step, loss and reason of every task; the keys are the fields of ``TaskStatus``."""
    make_study(tmp_path / "out", 2)
    write_task(tmp_path / "out", 1, "pretrain", Status("failed", step=3, steps_total=9, error="no <b>space</b>"), [])
    tasks = json.loads(run("status.py", "out", "--json").stdout)
    assert [(task["run_id"], task["task"], task["state"]) for task in tasks] == [
        ("femto-0", "pretrain", "planned"),
        ("femto-0", "classify", "planned"),
        ("femto-1", "pretrain", "failed"),
        ("femto-1", "classify", "planned"),
    ]
    assert set(tasks[0]) == {field.name for field in dataclasses.fields(TaskStatus)}
    assert tasks[2]["reason"] == "no <b>space</b>"
    assert "femto 1 seed 1 pretrain (femto-1): no <b>space</b>" in run("status.py", "out").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["out", "wach=true"], "did you mean 'watch'"),
        (["out", "--jsn"], "did you mean 'json'"),
        (["out", "watch=yes"], "watch=yes: expected true or false"),
        (["out", "other"], "'other': expected key=value"),
        (["out", "watch=true", "--json"], "leave out json"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, run: Run, words: list[str], message: str) -> None:
    """Exit code 2 and what would be right."""
    make_study(tmp_path / "out")
    answer = run("status.py", *words)
    assert answer.returncode == 2
    assert message in answer.stderr and answer.stderr.count("\n") == 1


def test_watching_ends_with_the_study(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows a task that runs, and leaves by itself once everything is finished or failed."""
    make_study(tmp_path)
    row = {"step": 4, "images_seen": 32, "loss": -0.5, "images_per_second": 16.0}
    write_task(tmp_path, 0, "pretrain", Status("running", step=4, steps_total=10), [row])

    def finish(_: float) -> None:
        write_task(tmp_path, 0, "pretrain", Status("finished", step=10, steps_total=10), [row])
        write_task(tmp_path, 0, "classify", Status("failed", error="boom"), [])

    monkeypatch.setattr(time, "sleep", finish)  # between the first look and the second
    assert status.main([str(tmp_path), "watch=true"]) == 0
    assert "1 finished, 1 failed" in capsys.readouterr().out


def test_ctrl_c_leaves_quietly(tmp_path: Path) -> None:
    """Watching a study that goes on ends at Ctrl-C with exit code 0 and no traceback."""
    make_study(tmp_path)
    script = Path(status.__file__)
    command = [sys.executable, str(script), str(tmp_path), "watch=true"]
    watching = Child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process, used = psutil.Process(watching.pid), -1.0
    while (now := sum(process.cpu_times()[:2])) != used or now < 0.1:  # until it rests between two looks
        used = now
        time.sleep(0.5)
    watching.send_signal(signal.SIGINT)
    _, errors = watching.communicate(timeout=60)
    assert watching.returncode == 0 and errors == ""


def test_old_status_files_are_read(tmp_path: Path) -> None:
    """Fields that are not there yet, or no more, do not matter."""
    planned = make_study(tmp_path)
    write_json(tmp_path / "runs" / "femto-0" / "pretrain" / "status.json", {"state": "finished", "speed": 3})
    assert task_statuses(planned, tmp_path)[0].state == "finished"


def test_no_two_runs_read_alike(tmp_path: Path) -> None:
    """Seeds are named; runs that no recorded setting tells apart, as of launches with other words, by their run_id."""
    twins = (
        ("femto-a", "femto", {}),
        ("femto-b", "femto", {}),
        ("femto-0", "femto", {"seed": 0}),
        ("pico-c", "pico", {}),
    )
    runs = tuple(PlannedRun(run_id, label, "pretrain", values, {"pretrain": COST}) for run_id, label, values in twins)
    planned = Plan("demo", "model_size", (), runs)
    names = ["femto (femto-a)", "femto (femto-b)", "femto seed 0", "pico"]
    assert list(planned.names.values()) == names
    tasks = task_statuses(planned, tmp_path)
    running = display.running_table(planned, tasks)
    for shown in (display.status_table(planned, tasks), display.results_table(planned, tmp_path)):
        assert list(shown.columns[0].cells) == names
    assert list(running.columns[0].cells) == [f"{name} pretrain" for name in names]
