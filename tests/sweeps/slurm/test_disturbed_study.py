"""A whole study on a real Slurm, two nodes for each task, while everything that can happen to it does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import Child
from plain_study import plain
from slurm_cluster import VirtualCluster, wait_for

from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.utils.files import read_json
from sweeps.slurm import job_states
from sweeps.slurm.job_states import JobState, read_submissions

Run = Callable[..., "subprocess.CompletedProcess[str]"]
ROOT = Path(__file__).resolve().parents[3]
STUDY = (
    "grid=seeds",
    "grid.axes.seed=[0,1,2]",
    "study.base_size=femto",
    "study.scratch_control=false",
    "study.tasks=[pretrain,classify]",
    "pretrain.steps=2000",
    "pretrain.batch_size=8",
    "classify.steps=4",
    "checkpoint.every=100",
    "log.tensorboard=false",
)
SLURM = (
    "cluster=slurm",
    "cluster.nodes=2",
    "cluster.tasks_per_node=1",
    "cluster.gpus_per_node=0",
    "cluster.cpus_per_task=1",
    "cluster.mem_gb=3",
    "cluster.timeout_min=15",
    "engine.ds_config=zero2",
)
LOCAL = ("cluster.processes_per_task=2", "cluster.threads_per_slot=2", "cluster.slots=1", "engine.ds_config=zero2")
NOT_STARTED = "not started: what it waits for failed"


class Study:
    """The study under way, as tests look at it."""

    def __init__(self, folder: Path, slurm: VirtualCluster) -> None:
        self.folder, self._slurm = folder, slurm
        runs = read_json(folder / "plan.json")["runs"]
        self.runs: list[str] = [run["run_id"] for run in runs]

    def job(self, run: int, task: str = "pretrain") -> JobState:
        """Slurm's word on a task of the run with seed ``run``."""
        return job_states.states(self.folder)[f"{self.runs[run]}/{task}"]

    def status(self, run: int, task: str = "pretrain") -> dict[str, Any]:
        """The task's own word."""
        path = self.folder / "runs" / self.runs[run] / task / "status.json"
        return dict(read_json(path)) if path.is_file() else {"state": "none", "step": 0, "attempt": 0, "error": None}

    def trains(self, run: int, after: int = 0) -> int:
        """Wait until the pre-training makes steps in an attempt later than ``after``, or has ended; its number.

        A job that is only being started would be killed by the signal that tells a task to save.
        """

        def ready() -> bool:
            job, own = self.job(run), self.status(run)
            return not job.is_live or (own["attempt"] > after and own["step"] > 0 and job.state == "RUNNING")

        wait_for(ready, 240, f"run {run} trains")
        return int(self.status(run)["attempt"])

    def started_again(self, run: int, restarts: int) -> None:
        """Wait until Slurm has started the pre-training that often anew, or it ended."""
        wait_for(
            lambda: self.job(run).restarts >= restarts or not self.job(run).is_live, 240, f"restart {restarts} of {run}"
        )

    def is_over(self) -> bool:
        """Whether Slurm has nothing more to do."""
        return not any(job.is_live for job in job_states.states(self.folder).values())

    def metrics_file(self, run: int) -> Path:
        """What the pre-training logged."""
        return self.folder / "runs" / self.runs[run] / "pretrain" / "metrics.jsonl"

    def metrics(self, run: int, task: str) -> dict[str, float]:
        """What the task's result says that must not depend on how it came about."""
        path = self.folder / "runs" / self.runs[run] / task / "result.json"
        return dict(read_json(path)["metrics"])


def launch(*words: str, **options: Any) -> subprocess.Popen[str]:
    """A launcher of its own process."""
    return Child([sys.executable, str(ROOT / "sweeps" / "launch.py"), *plain(words)], text=True, **options)


@pytest.mark.slow(seconds=200)
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_disturbed_study(
    run_process: Run, slurm_cluster: VirtualCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job is requeued, preempted and loses a node, the launcher is killed, a run is cancelled, a configuration
    damaged. Every task finishes or fails for its reason, results are those of an undisturbed study on this machine bit
    for bit, a second launch does what is missing and a third nothing."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # slots of this machine are not shared with other tests
    write_digits(tmp_path / "data", num_train=64, num_validation=16, shard_size=32)
    words = (*STUDY, f"data.root={tmp_path / 'data'}")
    launcher = launch(*words, *SLURM, "study_dir=disturbed", "watch=true", cwd=tmp_path, stdout=subprocess.DEVNULL)
    folder = tmp_path / "disturbed"
    wait_for(lambda: [each.job_id is None for each in read_submissions(folder)] == [False] * 2, 60, "submitted")
    study = Study(folder, slurm_cluster)
    config = study.folder / "runs" / study.runs[2] / "config.yaml"
    intact = config.read_text()
    config.write_text("model: {size: [femto\n")
    launcher.kill()
    launcher.wait()
    assert run_process("cancel.py", "disturbed", "run=*seed 1").returncode == 0

    attempt = study.trains(0)
    slurm_cluster.ask("scontrol", "requeue", study.job(0).job_id)
    study.started_again(0, 1)
    attempt = study.trains(0, attempt)
    slurm_cluster.ask("sbatch", "-p", "high", "-N2", "--exclusive", "--mem=1G", "-o", "/dev/null", "--wrap", "sleep 3")
    study.started_again(0, 2)
    study.trains(0, attempt)
    slurm_cluster.kill_node(2)
    wait_for(lambda: study.job(0).state != "RUNNING", 60, "Slurm has noticed")
    slurm_cluster.start_node(2)
    wait_for(study.is_over, 500, "everything ended")
    assert study.job(0).restarts >= 3

    told = {
        (task["run_id"], task["task"]): task
        for task in json.loads(run_process("status.py", "disturbed", "--json").stdout)
    }
    damaged = told[study.runs[2], "pretrain"]
    assert "config.yaml" in str(damaged["reason"]) and told[study.runs[2], "classify"]["reason"] == NOT_STARTED
    again = run_process("launch.py", *words, *SLURM, "study_dir=disturbed", "watch=true", "cluster.max_requeues=3")
    assert config.read_text() == intact
    assert "to do: " in again.stdout
    third = run_process("launch.py", *words, *SLURM, "study_dir=disturbed", "watch=true")
    assert "to do: 0 of 6" in third.stdout
    states = {(seed, task): study.status(seed, task) for seed in range(3) for task in ("pretrain", "classify")}
    assert {key for key, status in states.items() if status["state"] == "finished"} == {
        (seed, task) for seed in (0, 2) for task in ("pretrain", "classify")
    }, json.dumps({str(key): status for key, status in states.items()})
    assert [states[1, task]["error"] for task in ("pretrain", "classify")] == ["cancelled", "cancelled"]

    for seed in (0, 2):
        rows = [json.loads(line) for line in study.metrics_file(seed).read_text().splitlines()]
        steps = [row["step"] for row in rows if "images_per_second" in row]
        assert steps == sorted(set(steps)), "a step was logged twice: by two processes at once, or from two starts"

    quiet = run_process("launch.py", *words, *LOCAL, "grid.axes.seed=[0]", "study_dir=quiet")
    assert quiet.returncode == 0, quiet.stdout + quiet.stderr
    reference = Study(tmp_path / "quiet", slurm_cluster)
    assert reference.runs == study.runs[:1]
    for task in ("pretrain", "classify"):  # of the run that was disturbed and finished
        assert study.metrics(0, task) == reference.metrics(0, task)
