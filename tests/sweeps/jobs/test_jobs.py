"""Which tasks are left to do, and keeping their status true."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from plain_study import read_launch

from nepa_scale.run_dir.status import Status, read_status, write_status
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import write_json
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job, Selection, by_chain, chain_costs, makespan
from sweeps.jobs.task import PRINTED_NAME, clear_cancel_marker, mark_cancelled
from sweeps.plan import plan
from sweeps.plan.machine import Placements, Speed
from sweeps.plan.plan import Plan, PlannedRun, PlannedTask, save_cluster
from sweeps.plan.run_specs import expand, price, share_pretraining
from sweeps.settings.schema import LocalSettings

Run = Callable[..., "subprocess.CompletedProcess[str]"]
COST = PlannedTask(params_total=200, params_backbone=100, images=50, flops=10**9, memory_bytes=2**20, seconds=61.0)


@pytest.fixture
def femto() -> plan.Plan:
    """One pre-trained run and its control."""
    launch = read_launch(["study.sizes=[femto]", "study.tasks=[pretrain,classify,segment]"])
    return price(launch, expand(launch), Speed(None, 0.0, ""), Placements(launch.cluster))


def finish(study_dir: Path, key: str) -> None:
    """Leave behind what a finished task leaves."""
    write_json(study_dir / "runs" / key / "result.json", {"schema": 1})
    write_status(study_dir / "runs" / key, Status("finished"))


def keys(todo: list[Job]) -> list[str]:
    """The jobs as init/task."""
    return [("scratch/" if "scratch" in job.key else "own/") + job.key.rpartition("/")[2] for job in todo]


def test_everything_is_to_do_at_first(femto: plan.Plan, tmp_path: Path) -> None:
    """All five tasks are jobs; fine-tuning waits for its own pre-training, a control for nothing."""
    todo = jobs.jobs_to_do(femto, tmp_path)
    assert keys(todo) == [
        "own/pretrain",
        "own/classify",
        "own/segment",
        "scratch/classify",
        "scratch/segment",
    ]
    pretrain = todo[0].key
    assert [job.after for job in todo] == [(), (pretrain,), (pretrain,), (), ()]


def test_only_what_is_missing(femto: plan.Plan, tmp_path: Path) -> None:
    """Finished tasks are not done again, and what waited for them is free to start."""
    first = jobs.jobs_to_do(femto, tmp_path)
    for key in (first[0].key, first[4].key):
        finish(tmp_path, key)
    todo = jobs.jobs_to_do(femto, tmp_path)
    assert keys(todo) == ["own/classify", "own/segment", "scratch/classify"]
    assert {job.after for job in todo} == {()}


def test_fine_tuning_waits_for_the_pretraining_it_shares(tmp_path: Path) -> None:
    """A run without a pre-training of its own waits for the one it uses."""
    launch = read_launch(["grid=ablation_freeze", "study.tasks=[pretrain,classify]", "study.scratch_control=false"])
    points = share_pretraining(expand(launch), None, tmp_path)
    todo = jobs.jobs_to_do(price(launch, points, Speed(None, 0.0, ""), Placements(launch.cluster)), tmp_path)
    assert keys(todo) == ["own/pretrain", "own/classify", "own/classify"]
    assert [job.after for job in todo] == [(), (todo[0].key,), (todo[0].key,)]


@pytest.mark.parametrize("state", ["planned", "submitted", "running", "preempted", "failed"])
def test_every_other_state_is_tried_again(femto: plan.Plan, tmp_path: Path, state: str) -> None:
    """A task in any state but finished is to do, whatever files it left."""
    job = jobs.jobs_to_do(femto, tmp_path)[0]
    finish(tmp_path, job.key)
    write_status(jobs.task_dir(job), Status(state))
    assert job.key in [item.key for item in jobs.jobs_to_do(femto, tmp_path)]


def test_only_failed_or_only_missing(femto: plan.Plan, tmp_path: Path) -> None:
    """Failed tasks and the others are two halves; what waits for a job that is left out is left out, too."""
    todo = jobs.jobs_to_do(femto, tmp_path)
    for one in (todo[0], todo[3]):
        write_status(jobs.task_dir(one), Status("failed", error="boom"))
    assert jobs.selected(todo, "all") == todo
    assert keys(jobs.selected(todo, "failed")) == ["own/pretrain", "scratch/classify"]
    assert keys(jobs.selected(todo, "missing")) == ["scratch/segment"]


def test_a_whole_chain_is_left_out(tmp_path: Path) -> None:
    """Where the first of a chain of three failed, neither the second nor the third is merely missing."""
    first, second, third = (tmp_path / name / "submitit" for name in ("trunk", "branch", "fine"))
    chain = [
        Job(key="fine", function=print, folder=third, after=("branch",)),
        Job(key="branch", function=print, folder=second, after=("trunk",)),
        Job(key="trunk", function=print, folder=first),
    ]
    write_status(jobs.task_dir(chain[2]), Status("failed", error="boom"))
    assert jobs.selected(chain, "missing") == []
    assert jobs.selected(chain, "failed") == [chain[2]]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job with a task folder."""
    return Job(key="run/pretrain", function=print, folder=tmp_path / "run" / "pretrain" / "submitit")


@pytest.mark.parametrize("state", ["finished", "failed", "preempted"])
def test_the_task_has_the_last_word(job: Job, state: str) -> None:
    """What a task said about its own end stays, whatever its process did afterwards."""
    write_status(jobs.task_dir(job), Status(state, step=3, error="mine" if state == "failed" else None))
    assert jobs.settle(job, "the process died", stopping=False).state == state


@pytest.mark.parametrize(
    ("step", "stopping", "state"),
    [(0, False, "failed"), (7, False, "failed"), (0, True, "planned"), (7, True, "preempted")],
)
def test_a_task_that_said_nothing(job: Job, step: int, stopping: bool, state: str) -> None:
    """A process that is gone is not running: it failed, or was stopped with or without a step done."""
    write_status(jobs.task_dir(job), Status("running", step=step, steps_total=9, attempt=2))
    status = jobs.settle(job, "the process died", stopping=stopping)
    assert (status.state, status.step, status.attempt) == (state, step, 2)
    assert status.error == (None if stopping else "the process died")
    assert read_status(jobs.task_dir(job)) == status


def test_a_printed_error_is_the_reason(job: Job) -> None:
    """The message of a user's mistake, printed by the task, is kept rather than the exit of its process."""
    printed = jobs.task_dir(job) / PRINTED_NAME
    printed.parent.mkdir(parents=True)
    printed.write_text("loading\nerror: seed=-1: must be at least 0\n")
    write_status(jobs.task_dir(job), Status("submitted"))
    assert jobs.settle(job, "exit code 2", stopping=False).error == "seed=-1: must be at least 0"
    jobs.put_in_line(job)
    assert jobs.settle(job, "exit code 1", stopping=False).error == "exit code 1"


def test_new_try_clears_the_old_error(job: Job) -> None:
    """A failed task that is handed over again carries no error, but still counts its attempts."""
    write_status(jobs.task_dir(job), Status("failed", step=4, attempt=3, error="boom"))
    jobs.mark(job, "submitted")
    status = read_status(jobs.task_dir(job))
    assert status is not None
    assert (status.state, status.attempt, status.error) == ("submitted", 3, None)


@pytest.mark.parametrize("state", ["planned", "running", "preempted", "failed"])
def test_a_cancelled_task_stays_so(femto: plan.Plan, tmp_path: Path, state: str) -> None:
    """Whatever it said last, it failed as cancelled; neither it nor what waits for it is to do until it is allowed."""
    todo = jobs.jobs_to_do(femto, tmp_path)
    write_status(jobs.task_dir(todo[0]), Status(state, step=3))
    mark_cancelled(jobs.task_dir(todo[0]))
    settled = jobs.settle(todo[0], None, stopping=True)
    assert (settled.state, settled.step, settled.error) == ("failed", 3, "cancelled")
    assert keys(jobs.jobs_to_do(femto, tmp_path)) == ["scratch/classify", "scratch/segment"]
    clear_cancel_marker(jobs.task_dir(todo[0]))
    assert len(jobs.jobs_to_do(femto, tmp_path)) == 5


def test_a_result_outlives_a_late_cancel(femto: plan.Plan, tmp_path: Path) -> None:
    """A task that finished before the signal reached it keeps its result."""
    job = jobs.jobs_to_do(femto, tmp_path)[0]
    finish(tmp_path, job.key)
    mark_cancelled(jobs.task_dir(job))
    assert jobs.settle(job, None, stopping=False).state == "finished"


def test_up_and_down_a_chain(tmp_path: Path) -> None:
    """What waits for a job, however indirectly, goes with it; what it waits for is found as well."""
    chain = [
        Job(key="fine", function=print, folder=tmp_path, after=("branch",)),
        Job(key="branch", function=print, folder=tmp_path, after=("trunk",)),
        Job(key="trunk", function=print, folder=tmp_path),
        Job(key="other", function=print, folder=tmp_path),
    ]
    assert jobs.with_dependants([chain[2]], chain) == chain[:3]
    assert jobs.with_dependants([chain[1]], chain) == chain[:2]
    assert jobs.with_parents([chain[0]], chain) == chain[:3]
    assert jobs.with_parents([chain[2]], chain) == [chain[2]]


def costing(key: str, cost: float, *after: str) -> Job:
    """A job that is never run."""
    return Job(key=key, function=print, folder=Path("unused"), after=after, cost=cost)


CHAIN = [costing("small", 3), costing("root", 1), costing("leaf", 5, "root"), costing("twig", 1, "root")]


def test_chain_cost_counts_the_longest_line_only() -> None:
    """A job counts itself and the costliest line of work behind it, not all of it."""
    assert chain_costs(CHAIN) == {"small": 3, "root": 6, "leaf": 5, "twig": 1}


def test_a_cheap_job_that_holds_up_much_goes_first() -> None:
    """The head of the longest line starts before a job that costs more by itself."""
    assert [item.key for item in by_chain(CHAIN)] == ["root", "leaf", "small", "twig"]


def test_finished_parents_do_not_count() -> None:
    """A job whose parent is not among the jobs (finished earlier) has its own cost."""
    assert chain_costs([costing("orphan", 2, "done before")]) == {"orphan": 2}


@pytest.mark.parametrize(("slots", "expected"), [(1, 10), (2, 6), (3, 6)])
def test_makespan_by_hand(slots: int, expected: float) -> None:
    """root 0-1, leaf 1-6 beside small 0-3 and twig 3-4: six on two slots, the sum on one."""
    assert makespan(CHAIN, {item.key: item.cost for item in CHAIN}, slots) == expected


def test_makespan_of_nothing() -> None:
    """No work takes no time."""
    assert makespan([], {}, 2) == 0


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
def test_what_was_never_in_line_is_not_retried(run: Run) -> None:
    """The launcher may hold it back: said with exit code 1, and nothing is started."""
    done = run("retry.py", "out", "run=femto*")
    assert (done.returncode, done.stdout.splitlines()) == (
        1,
        ["retrying 0 of 8 unfinished tasks", "4 tasks named were never in line; `nepa-launch` starts them"],
    )


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
