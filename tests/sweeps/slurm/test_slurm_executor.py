"""Submitting to a real Slurm, see conftest: chains, arrays, what became of jobs, and starting again."""

from __future__ import annotations

import getpass
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cloudpickle
import pytest
from rich.console import Console
from slurm_cluster import ACCOUNT, VirtualCluster, wait_for

from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.distributed.signals import StopRequest
from nepa_scale.run_dir.status import Status, read_status, write_status
from nepa_scale.utils.errors import UserError
from nepa_scale.utils.files import write_json
from sweeps.follow.follower import Follower
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import TaskInterruptedError, mark_cancelled
from sweeps.plan.machine import Resources
from sweeps.plan.plan import save_cluster
from sweeps.settings.schema import SlurmSettings
from sweeps.slurm import job_states
from sweeps.slurm.executor import SlurmExecutor
from sweeps.slurm.job_states import read_submissions

SMALL = Resources(mem_gb=1, timeout_min=15)
SETTINGS = SlurmSettings(kind="slurm")
Function = Callable[[], object]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a job cannot import a test


def make_job(study: Path, key: str, function: Function, *after: str, asked: Resources = SMALL) -> Job:
    """A job of ``study``."""
    return Job(key=key, function=function, folder=study / "runs" / key / "submitit", after=after, resources=asked)


def submit(study: Path, todo: Sequence[Job], settings: SlurmSettings = SETTINGS) -> SlurmExecutor:
    """Submit ``todo`` and return who did."""
    executor = SlurmExecutor(settings, study)
    executor.submit(todo)
    return executor


def ends(study: Path, seconds: float = 120) -> dict[str, str]:
    """Slurm's last word on every job, once none waits or runs."""
    wait_for(lambda: not any(job.is_live for job in job_states.states(study).values()), seconds, "all jobs ended")
    return {key: job.state for key, job in job_states.states(study).items()}


def finish(study: Path, key: str, needs: str | None = None) -> None:
    """What a task does that ends well; ``needs`` names another that must have."""
    if needs is not None and not (study / "runs" / needs / "result.json").exists():
        raise RuntimeError(f"{needs} has no result")
    write_json(study / "runs" / key / "result.json", {"schema": 1})
    write_status(study / "runs" / key, Status("finished"))


def wait_until_there(path: Path) -> None:
    """Work until somebody makes the file ``path``."""
    while not path.exists():
        time.sleep(0.1)


def reason(job: Job) -> str:
    """Why the task failed, by its own status."""
    status = read_status(jobs.task_dir(job))
    assert status is not None and status.state == "failed"
    return status.error or ""


def test_without_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine without Slurm's commands the launch ends with their names."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch, srun, squeue, scontrol, scancel not found"):
        SlurmExecutor(SETTINGS, tmp_path).check()


def test_a_study_that_came_from_a_cluster(monkeypatch: pytest.MonkeyPatch, run: Run, tmp_path: Path) -> None:
    """Where there is no Slurm its files tell how it stands; it is launched here if no task was under way."""
    words = ("study.sizes=[atto]", "study.tasks=[pretrain]", "study.scratch_control=false", "study_dir=out")
    words = (*words, "data.root=data", "only=failed", "watch=false")
    write_digits(tmp_path / "data", num_train=64, num_validation=16, shard_size=32)
    assert run("launch.py", *words).returncode == 0
    save_cluster(SETTINGS, tmp_path / "out")
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    key = f"{folder.name}/pretrain"
    job_states.begin_submission(tmp_path / "out", [key])
    monkeypatch.setenv("PATH", str(tmp_path))
    write_status(folder / "pretrain", Status("running", step=3, steps_total=9))
    shown = run("status.py", "out")
    assert (shown.returncode, shown.stderr) == (0, "") and "running 3/9" in shown.stdout
    refused = run("launch.py", *words)
    assert refused.returncode == 2 and refused.stderr.startswith("error: squeue: not found")
    finish(tmp_path / "out", key)
    assert "1 finished" in run("status.py", "out").stdout
    assert run("launch.py", *words).returncode == 0


@pytest.mark.usefixtures("slurm_cluster")
def test_chains_in_arrays(tmp_path: Path) -> None:
    """Of three equal chains one fails at its head: its child is cancelled, the others' children run after their own
    parents, and the study knows why."""
    todo = []
    for run in ("a", "b", "c"):
        parent, child = f"{run}/pretrain", f"{run}/classify"
        todo.append(make_job(tmp_path, parent, partial(int, "x") if run == "b" else partial(finish, tmp_path, parent)))
        todo.append(make_job(tmp_path, child, partial(finish, tmp_path, child, parent), parent))
    executor = submit(tmp_path, todo)
    assert [submission.keys for submission in read_submissions(tmp_path)] == [
        ("a/pretrain", "b/pretrain", "c/pretrain"),
        ("a/classify", "b/classify", "c/classify"),
    ]
    assert ends(tmp_path) == {
        "a/pretrain": "COMPLETED",
        "b/pretrain": "FAILED",
        "c/pretrain": "COMPLETED",
        "a/classify": "COMPLETED",
        "b/classify": "CANCELLED",
        "c/classify": "COMPLETED",
    }
    executor.settle(todo)
    assert [job.key for job in todo if jobs.is_done(job)] == ["a/pretrain", "a/classify", "c/pretrain", "c/classify"]
    assert "exit code 1" in reason(todo[2])
    assert reason(todo[3]) == "not started: what it waits for failed"


@pytest.mark.usefixtures("slurm_cluster")
def test_the_same_launch_twice(tmp_path: Path) -> None:
    """A job that waits or runs is not submitted again, also where the launcher died before it noted the job's id; a
    child that is new hangs on it."""
    first = make_job(tmp_path, "a/pretrain", partial(wait_until_there, tmp_path / "go"))
    submit(tmp_path, [first])
    (recorded,) = read_submissions(tmp_path)
    write_json(tmp_path / "slurm" / "1.json", recorded.__dict__ | {"job_id": None})
    child = make_job(tmp_path, "a/classify", partial(finish, tmp_path, "a/classify"), "a/pretrain")
    again = SlurmExecutor(SETTINGS, tmp_path)
    assert "1 tasks are there already" in again.submit([first, child])
    (tmp_path / "go").touch()
    assert [item.keys for item in read_submissions(tmp_path)] == [("a/pretrain",), ("a/classify",)]
    assert ends(tmp_path) == {"a/pretrain": "COMPLETED", "a/classify": "COMPLETED"}
    assert not again.is_active()


@pytest.mark.usefixtures("slurm_cluster")
def test_refused_as_a_whole(tmp_path: Path) -> None:
    """When the second of two arrays asks for what no node has, the first is taken back; Slurm's words are told."""
    greedy = Resources(cpus_per_task=100_000)
    todo = [
        make_job(tmp_path, "a/pretrain", partial(time.sleep, 60)),
        make_job(tmp_path, "b/pretrain", print, asked=greedy),
    ]
    with pytest.raises(UserError, match=r"Slurm refuses b/pretrain: sbatch: error: .*More processors requested"):
        submit(tmp_path, todo)
    assert ends(tmp_path)["a/pretrain"] == "CANCELLED"
    assert [jobs.state(job) for job in todo] == ["planned", "planned"]


@pytest.mark.usefixtures("slurm_cluster")
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SlurmSettings(kind="slurm", partition="nowhere"), "invalid partition"),
        (SlurmSettings(kind="slurm", partition="short"), "time limit"),
    ],
)
def test_refusals_are_in_slurms_words(tmp_path: Path, settings: SlurmSettings, words: str) -> None:
    """An absent partition, a limit above the partition's."""
    with pytest.raises(UserError) as raised:
        submit(tmp_path, [make_job(tmp_path, "a/pretrain", print)], settings)
    assert words in str(raised.value).lower() and "\n" not in str(raised.value)


def test_accounts_and_limits(accounted_slurm: VirtualCluster, tmp_path: Path) -> None:
    """A wrong account is refused; where a user may have two jobs in line, a study of three has none of them in it."""
    job = make_job(tmp_path / "one", "a/pretrain", print)
    with pytest.raises(UserError, match=r"Slurm refuses a/pretrain: sbatch: error: .*[Ii]nvalid account"):
        submit(tmp_path / "one", [job], SlurmSettings(kind="slurm", account="nobody"))
    accounted_slurm.ask("sacctmgr", "-i", "modify", "user", getpass.getuser(), "set", "maxsubmitjobs=2")
    todo = [
        make_job(tmp_path, f"{run}/pretrain", partial(time.sleep, 60), asked=Resources(mem_gb=1, timeout_min=minutes))
        for run, minutes in {"a": 5, "b": 10, "c": 15}.items()  # three arrays, as each has its own limit
    ]
    settings = SlurmSettings(kind="slurm", account=ACCOUNT)
    with pytest.raises(UserError, match=r"Slurm refuses c/pretrain: sbatch: error: .*[Ll]imit"):
        submit(tmp_path, todo, settings)
    assert ends(tmp_path) == {"a/pretrain": "CANCELLED", "b/pretrain": "CANCELLED"}
    assert [jobs.state(job) for job in todo] == ["planned"] * 3
    wait_for(lambda: accounted_slurm.ask("squeue", "-h") == "", 30, "nothing in line")
    submit(tmp_path, todo[:2], settings)
    job_states.cancel([state.job_id for state in job_states.states(tmp_path).values()])


@pytest.mark.usefixtures("slurm_cluster")
def test_how_jobs_die(tmp_path: Path) -> None:
    """Each of four deaths that say nothing in Python has its reason: memory, a signal, an exit, a scancel."""

    def eat() -> None:
        hoard = []
        while True:
            hoard.append(bytearray(2**27))
            time.sleep(0.05)

    todo = [
        make_job(tmp_path, "oom/pretrain", eat),
        make_job(tmp_path, "killed/pretrain", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
        make_job(tmp_path, "exit/pretrain", lambda: os._exit(7)),
        make_job(tmp_path, "cancelled/pretrain", partial(time.sleep, 100)),
    ]
    executor = submit(tmp_path, todo)
    wait_for(lambda: job_states.states(tmp_path)["cancelled/pretrain"].state == "RUNNING", 60, "running")
    job_states.cancel([job_states.states(tmp_path)["cancelled/pretrain"].job_id])
    ends(tmp_path)
    executor.settle(todo)
    oom, killed, exited, cancelled = (reason(job) for job in todo)
    assert oom.startswith("oom: ")
    assert killed.startswith("killed by signal 11")
    assert exited.startswith("ended before its end, exit code 7")
    assert cancelled == "cancelled: its job was cancelled in Slurm"


def interrupted_until(study: Path, starts: int) -> None:
    """A task that is interrupted as often as it starts, and is done the time after ``starts``."""
    log = study / "starts"
    with log.open("a") as file:
        file.write("x")
    if len(log.read_text()) <= starts:
        raise TaskInterruptedError("told to stop")
    finish(study, "a/pretrain")


@pytest.mark.usefixtures("slurm_cluster")
@pytest.mark.parametrize("restarts", [1, 0])
def test_interrupted_tasks_start_again(tmp_path: Path, restarts: int) -> None:
    """A task that was told to stop is requeued under its own id, as often as allowed and no more."""
    settings = SlurmSettings(kind="slurm", max_requeues=restarts)
    job = make_job(tmp_path, "a/pretrain", partial(interrupted_until, tmp_path, 1))
    other = make_job(tmp_path, "b/pretrain", partial(finish, tmp_path, "b/pretrain"))
    submit(tmp_path, [job, other], settings)
    assert ends(tmp_path) == {"a/pretrain": "COMPLETED" if restarts else "FAILED", "b/pretrain": "COMPLETED"}
    assert {key: state.restarts for key, state in job_states.states(tmp_path).items()}["a/pretrain"] == restarts
    assert {key: state.restarts for key, state in job_states.states(tmp_path).items()}["b/pretrain"] == 0
    if not restarts:
        assert reason(job).startswith("timeout: interrupted 1 times")


def until_told(study: Path) -> None:
    """A task that works until it is told that its time is nearly over, and is done when it starts again."""
    if os.environ.get("SLURM_RESTART_COUNT"):
        finish(study, "a/pretrain")
        return
    told: list[int] = []
    signal.signal(signal.SIGUSR2, lambda number, _: told.append(number))
    while not told:
        time.sleep(0.1)
    raise TaskInterruptedError("told to stop")


@pytest.mark.slow(seconds=80)
@pytest.mark.usefixtures("slurm_cluster")
def test_the_time_limit(tmp_path: Path) -> None:
    """Before its real time limit a task is told, and goes on in a new start; one that does not listen has a timeout."""
    settings = SlurmSettings(kind="slurm", save_seconds=30)  # a busy machine has begun by the half minute
    minute = Resources(mem_gb=1, timeout_min=1)
    todo = [
        make_job(tmp_path, "a/pretrain", partial(until_told, tmp_path), asked=minute),
        make_job(tmp_path, "deaf/pretrain", partial(deaf, 300), asked=minute),
    ]
    executor = submit(tmp_path, todo, settings)
    assert ends(tmp_path, 240) == {"a/pretrain": "COMPLETED", "deaf/pretrain": "TIMEOUT"}
    executor.settle(todo)
    assert reason(todo[1]).startswith("timeout: the time limit of its job is over")
    assert job_states.states(tmp_path)["a/pretrain"].restarts == 1


def deaf(seconds: float) -> None:
    """Work on, whatever is said."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(seconds)


@pytest.mark.usefixtures("slurm_cluster")
def test_a_cancelled_task_is_not_requeued(tmp_path: Path) -> None:
    """One that a user cancels while it runs ends for good, though it was told to stop just as by a preemption."""
    job = make_job(tmp_path, "a/pretrain", partial(interrupted_until, tmp_path, 9))
    mark_cancelled(jobs.task_dir(job))
    submit(tmp_path, [job])
    assert ends(tmp_path) == {"a/pretrain": "FAILED"}
    assert reason(job) == "cancelled"


def test_a_lost_node(slurm_cluster: VirtualCluster, tmp_path: Path) -> None:
    """A job whose whole node dies starts again, and counts as one that goes on meanwhile."""

    def work() -> None:
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) == 0:
            (tmp_path / "node").write_text(os.environ["SLURMD_NODENAME"])
            time.sleep(300)
        finish(tmp_path, "a/pretrain")

    job = make_job(tmp_path, "a/pretrain", work)
    executor = submit(tmp_path, [job])
    wait_for((tmp_path / "node").exists, 60, "the job runs")
    number = int((tmp_path / "node").read_text().removeprefix("virtual"))
    slurm_cluster.kill_node(number)
    try:
        executor.settle([job])
        assert jobs.state(job) == "submitted"
        assert ends(tmp_path) == {"a/pretrain": "COMPLETED"}
    finally:
        slurm_cluster.start_node(number)
        wait_for(slurm_cluster.is_idle, 60, "the node is back")


def test_a_watcher_outlives_the_controller(slurm_cluster: VirtualCluster, tmp_path: Path) -> None:
    """A launch that watches for days sees controllers restart: it says so once, waits, and sees the end."""

    def work() -> None:
        (tmp_path / "begun").touch()
        wait_until_there(tmp_path / "go")
        finish(tmp_path, "a/pretrain")

    job = make_job(tmp_path, "a/pretrain", work)
    executor = submit(tmp_path, [job])
    wait_for((tmp_path / "begun").exists, 60, "the job runs")
    shown = io.StringIO()
    follower = Follower([job], {job.key: "a pretrain"}, Console(file=shown))
    slurm_cluster.stop_controller()
    watching = threading.Thread(target=follower.follow, args=(executor, StopRequest()))
    watching.start()
    wait_for(lambda: "asking again" in shown.getvalue(), 60, "the watcher has no answer")
    slurm_cluster.start_controller()
    (tmp_path / "go").touch()
    watching.join(60)
    assert not watching.is_alive()
    assert shown.getvalue().count("asking again") == 1
    assert follower.failures == [] and jobs.is_done(job)


def test_jobs_that_the_controller_has_forgotten(forgetful_slurm: bool, tmp_path: Path) -> None:
    """Long after its end a job's fate is told by the accounting, where there is one; else it is lost, never live."""
    names = ("killed/pretrain", "good/pretrain", "exit/pretrain")
    todo = [
        make_job(tmp_path, names[0], lambda: os.kill(os.getpid(), signal.SIGSEGV)),
        make_job(tmp_path, names[1], partial(finish, tmp_path, names[1])),
        make_job(tmp_path, names[2], lambda: os._exit(7)),
    ]
    executor = submit(tmp_path, todo)
    ends(tmp_path)
    wait_for(lambda: not job_states.my_jobs(), 120, "the controller has forgotten")
    if forgetful_slurm:
        ids = [job.job_id for job in job_states.states(tmp_path).values()]
        wait_for(lambda: len(job_states.accounted(ids)) == 3, 60, "the accounting has all")
    assert not executor.is_active()
    executor.settle(todo)
    assert jobs.is_done(todo[1])
    if forgetful_slurm:
        assert reason(todo[0]).startswith("ended before its end, exit code 11")  # sacct takes 128 off
        assert reason(todo[2]).startswith("ended before its end, exit code 7")
    else:
        assert reason(todo[0]) == reason(todo[2]) == "lost: Slurm does not know its job any more"


@pytest.mark.usefixtures("slurm_cluster")
def test_squeue_shows_the_run(tmp_path: Path) -> None:
    """Each element of an array is named after its run once it runs, and only itself."""
    todo = [make_job(tmp_path, f"{run}/pretrain", partial(wait_until_there, tmp_path / "go")) for run in ("a", "b")]
    submit(tmp_path, todo)

    def names() -> set[str]:
        shown = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%j"], capture_output=True, text=True, check=True)
        return set(shown.stdout.split("\n"))

    wait_for(lambda: {"a/pretrain", "b/pretrain"} <= names(), 60, "both names")
    (tmp_path / "go").touch()
    ends(tmp_path)
