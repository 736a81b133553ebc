"""Chains of jobs on Slurm. The submissions go to a real one, see conftest."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from nepa_scale.errors import UserError
from sweeps import slurm
from sweeps.schedule import Job
from sweeps.settings import SlurmSettings

SMALL = SlurmSettings(kind="slurm", mem_gb=1, timeout_min=15)


def make_job(folder: Path, key: str, function: Callable[[], object], *after: str) -> Job:
    """A job that submits from below ``folder``."""
    return Job(key=key, function=function, folder=folder / key, after=after)


class Marks(dict[str, str]):
    """The state last noted of each job."""

    def __call__(self, job: Job, state: str) -> None:
        """Note a state."""
        self[job.key] = state


def final_state(job_id: str) -> str:
    """Slurm's word on a job once it left the queue."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        shown = subprocess.run(["scontrol", "show", "job", job_id], capture_output=True, text=True, check=True)
        state = shown.stdout.partition("JobState=")[2].split()[0]
        if state not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
            return state
        time.sleep(0.5)
    raise TimeoutError(f"job {job_id} is still {state}")


def test_what_slurm_is_asked_for() -> None:
    """A dependant starts only after its parents ended well and is removed when they did not."""
    asked = slurm.parameters(SMALL, "name", ["4", "5"])
    assert asked["slurm_additional_parameters"] == {"dependency": "afterok:4:5", "kill-on-invalid-dep": "yes"}
    assert slurm.parameters(SMALL, "name", [])["slurm_additional_parameters"] == {}


def test_names_tell_studies_apart(tmp_path: Path) -> None:
    """A job's name carries run and task, and differs between directories that hold the same run."""
    job = make_job(tmp_path, "femto-p8-0/pretrain", print)
    first, second = slurm.job_name(job, tmp_path / "a"), slurm.job_name(job, tmp_path / "b")
    assert first.startswith("femto-p8-0/pretrain@")
    assert first != second
    assert first == slurm.job_name(job, tmp_path / "a")


def test_without_slurm_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a machine without Slurm's commands the launch ends with their names."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch, srun, squeue not found"):
        slurm.check_available()


@pytest.mark.usefixtures("slurm_cluster")
def test_chain_on_slurm(tmp_path: Path) -> None:
    """Children of a good job run after it; children and grandchildren of a bad one are cancelled."""

    def touch(name: str, needs: str | None = None) -> None:
        if needs is not None and not (tmp_path / needs).exists():
            raise RuntimeError(f"{needs} was not there")
        (tmp_path / name).touch()

    jobs = [
        make_job(tmp_path, "good", partial(touch, "parent")),
        make_job(tmp_path, "after-good", partial(touch, "child", "parent"), "good"),
        make_job(tmp_path, "bad", partial(int, "x")),
        make_job(tmp_path, "after-bad", partial(touch, "never"), "bad"),
        make_job(tmp_path, "later", partial(touch, "never"), "after-bad"),
    ]
    ids = slurm.submit_all(jobs, SMALL, tmp_path, Marks())
    assert {key: final_state(job_id) for key, job_id in ids.items()} == {
        "good": "COMPLETED",
        "after-good": "COMPLETED",
        "bad": "FAILED",
        "after-bad": "CANCELLED",
        "later": "CANCELLED",
    }
    assert (tmp_path / "child").exists()
    assert not (tmp_path / "never").exists()


@pytest.mark.usefixtures("slurm_cluster")
def test_a_live_job_is_not_submitted_twice(tmp_path: Path) -> None:
    """Submitting again while a job waits or runs keeps that job, and its child hangs on it."""
    first = slurm.submit_all([make_job(tmp_path, "job", partial(time.sleep, 8))], SMALL, tmp_path, Marks())
    marks = Marks()
    jobs = [make_job(tmp_path, "job", print), make_job(tmp_path, "child", print, "job")]
    second = slurm.submit_all(jobs, SMALL, tmp_path, marks)
    assert second["job"] == first["job"]
    assert marks == {"child": "submitted"}
    assert final_state(second["child"]) == "COMPLETED"
    assert slurm.job_name(jobs[0], tmp_path) not in slurm.live_jobs()


@pytest.mark.usefixtures("slurm_cluster")
def test_refusal_is_in_slurms_words(tmp_path: Path) -> None:
    """A request that no node can meet is the user's to mend, told in Slurm's words."""
    greedy = SlurmSettings(kind="slurm", cpus_per_task=100_000)
    marks = Marks()
    with pytest.raises(UserError, match=r"Slurm refuses job@.*submission failed"):
        slurm.submit_all([make_job(tmp_path, "job", print)], greedy, tmp_path, marks)
    assert marks == {"job": "planned"}
