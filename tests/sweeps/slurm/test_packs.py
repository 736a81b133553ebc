"""Tasks that share a node and a job: how they are put together, and how each ends for itself in a real Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cloudpickle
import pytest
from slurm_cluster import VirtualCluster, wait_for

from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.run_dir.status import Status, read_status, write_status
from nepa_scale.utils.files import read_json, write_json
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.jobs.task import TaskInterruptedError, mark_cancelled
from sweeps.plan.machine import Resources
from sweeps.settings.schema import SlurmSettings
from sweeps.slurm import executor, job_states
from sweeps.slurm.arranging import Array, Pack, arranged
from sweeps.slurm.executor import SlurmExecutor
from sweeps.slurm.inside_job import still_to_do
from sweeps.slurm.job_states import read_submissions, submission_folder

Run = Callable[..., "subprocess.CompletedProcess[str]"]
QUARTER = Resources(gpus_per_node=1, mem_gb=1, timeout_min=15, sharing=4)
HALF = Resources(tasks_per_node=2, gpus_per_node=2, sharing=2)
SETTINGS = SlurmSettings(kind="slurm", tasks_per_node=4, gpus_per_node=4)
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a job cannot import a test


def job(key: str, *after: str, asked: Resources = QUARTER, cost: float = 0.0) -> Job:
    """A job that is only looked at."""
    return Job(key=key, function=print, folder=Path("runs") / key / "x", after=after, resources=asked, cost=cost)


def shown(units: list[Array | Pack]) -> list[tuple[str, list[str]]]:
    """The kind and the keys of each unit."""
    return [(type(unit).__name__, [each.key for each in unit.jobs]) for unit in units]


def test_chains_share_a_node_with_those_of_like_length() -> None:
    """Five chains of one-device tasks on nodes of four: the four longest together with what waits for them, and the
    fifth, of two tasks, by itself; a pack asks for the devices of those that run at once."""
    todo = [job(f"{run}/pretrain", cost=cost) for run, cost in zip("abcde", (1, 5, 4, 3, 2), strict=True)]
    todo += [job(f"{run}/classify", f"{run}/pretrain") for run in "ab"]
    units = arranged(todo, {}, 1001)
    assert shown(units) == [
        ("Pack", ["b/pretrain", "b/classify", "c/pretrain", "d/pretrain", "e/pretrain"]),
        ("Pack", ["a/pretrain", "a/classify"]),
    ]
    assert units[0].resources == Resources(gpus_per_node=4, cpus_per_task=4, mem_gb=4, timeout_min=30, sharing=4)
    assert units[1].resources.gpus_per_node == 1


def test_what_waits_for_another_shape() -> None:
    """Fine-tunings on one device wait for the pre-training of their own run on a whole node, and share a node; a task
    of a whole node waits for the pack that has its pre-training, however that ends; one alone is no pack."""
    whole = Resources(tasks_per_node=4)
    todo = [job(f"{run}/pretrain", asked=whole) for run in "ab"]
    todo += [job(f"a/{task}", "a/pretrain") for task in ("classify", "segment")] + [job("b/classify", "b/pretrain")]
    todo += [job("c/pretrain"), job("d/pretrain"), job("c/segment", "c/pretrain", asked=whole)]
    units = arranged(todo, {}, 1001)
    assert shown(units) == [
        ("Array", ["a/pretrain", "b/pretrain"]),
        ("Pack", ["c/pretrain", "d/pretrain"]),
        ("Array", ["c/segment"]),
        ("Pack", ["a/classify", "a/segment"]),
        ("Array", ["b/classify"]),
    ]
    ids = {id(unit): str(number) for number, unit in enumerate(units)}
    waits = {unit.jobs[0].key: executor.dependency_of(unit, ids) for unit in units}
    assert waits["a/classify"] == f"afterok:{ids[id(units[0])]}_0"
    assert waits["b/classify"] == f"afterok:{ids[id(units[0])]}_1"
    pack = next(unit for unit in units if unit.jobs[0].key == "c/pretrain")
    assert waits["c/segment"] == f"afterany:{ids[id(pack)]}"


def test_numbers_of_devices_do_not_mix() -> None:
    """Tasks of one and of two devices are packs of their own, and no more of them than a node holds."""
    todo = [job(f"{run}/pretrain", asked=HALF) for run in "abc"] + [job(f"{run}/pretrain") for run in "de"]
    assert sorted(shown(arranged(todo, {}, 1001))) == [
        ("Array", ["c/pretrain"]),
        ("Pack", ["a/pretrain", "b/pretrain"]),
        ("Pack", ["d/pretrain", "e/pretrain"]),
    ]


def test_a_pack_keeps_the_clusters_limit_and_scales_its_gres() -> None:
    """Chains that take longer than a job may are requeued as others are; a kind of GPU is asked for in the number, and
    no more memory than a node's where its parts were rounded up."""
    settings = SlurmSettings(timeout_min=20, gpus_per_node=4, mem_gb=1, sbatch={"gres": "gpu:h100:4,license:1"})
    (pack,) = arranged([job("a/pretrain"), job("a/classify", "a/pretrain"), job("b/pretrain")], {}, 1001)
    asked = executor.parameters(settings, pack, "comment", None)
    assert (asked["time"], asked["additional_parameters"]["gres"], asked["mem"]) == (20, "gpu:h100:2,license:1", "1GB")
    assert asked["setup"][0] == "# 3 tasks share this job, 2 at once:"


def act(study: Path, key: str, needs: str | None = None, *, how: str = "finish") -> None:
    """What a task does: end well, fail, be interrupted once, or go on until it is told to stop."""
    folder = study / "runs" / key
    before = read_status(folder)
    starts = 1 + len(list(folder.glob("start*")))
    write_json(folder / f"start{starts}.json", {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES")})
    write_status(folder, Status("running", step=starts, attempt=starts))
    if needs is not None and not (study / "runs" / needs / "result.json").exists():
        raise RuntimeError(f"{needs} has no result")
    if how == "fail":
        raise RuntimeError("as it was to")
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda number, _: told.append(number))
    goes_on = (how == "last" and starts == 1) or how == "endless"
    deadline = time.monotonic() + (0 if how == "finish" else 90 if goes_on else 0)
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    if told or (how == "interrupted" and starts == 1):
        write_status(folder, Status("preempted", step=starts, attempt=starts))
        raise TaskInterruptedError("told to stop")
    assert before is not None
    write_json(folder / "result.json", {"schema": 1})
    write_status(folder, Status("finished", step=starts, attempt=starts))


def acting(study: Path, key: str, *after: str, how: str = "finish") -> Job:
    """A job of ``study`` that acts."""
    function = partial(act, study, key, after[0] if after else None, how=how)
    return Job(key=key, function=function, folder=study / "runs" / key / "submitit", after=after, resources=QUARTER)


def states(study: Path, todo: list[Job]) -> dict[str, tuple[str, int]]:
    """The state and number of starts of each task."""
    found = {each.key: read_status(jobs.task_dir(each)) or Status("none") for each in todo}
    return {key: (status.state, len(list((study / "runs" / key).glob("start*")))) for key, status in found.items()}


def over(study: Path, seconds: float = 150) -> dict[str, str]:
    """Slurm's last word on every job, once none waits or runs."""
    wait_for(lambda: not any(each.is_live for each in job_states.states(study).values()), seconds, "all jobs ended")
    return {key: each.state for key, each in job_states.states(study).items()}


def test_a_task_that_another_job_took_over_is_left_to_it(tmp_path: Path) -> None:
    """One that failed in a pack and was submitted again, alone, while the pack goes on."""
    packed = [job("a/pretrain"), job("b/pretrain")]
    pack = job_states.begin_submission(tmp_path, [each.key for each in packed], packed=True)
    assert still_to_do(packed, tmp_path, pack.number) == packed
    again = job_states.begin_submission(tmp_path, ["a/pretrain"])
    assert still_to_do(packed, tmp_path, pack.number) == packed[1:]
    assert still_to_do(packed[:1], tmp_path, again.number) == packed[:1]


@pytest.mark.usefixtures("slurm_cluster")
def test_each_task_ends_for_itself(tmp_path: Path) -> None:
    """In one job of four devices one task fails, one is cancelled while it runs, one is interrupted alone and starts
    again; what waits for the failed one is not started, what waits for the others is done, each on a GPU of its own.
    The script is as it was shown before."""
    ways = {"a": "finish", "b": "fail", "c": "endless", "d": "interrupted"}
    todo = [acting(tmp_path, f"{run}/pretrain", how=how) for run, how in ways.items()]
    todo += [acting(tmp_path, f"{run}/classify", f"{run}/pretrain") for run in ways]
    executor = SlurmExecutor(SETTINGS, tmp_path)
    shown_before = executor.scripts(todo)
    executor.submit(todo)
    (record,) = read_submissions(tmp_path)
    assert record.packed and set(record.keys) == {each.key for each in todo}
    (got,) = submission_folder(tmp_path, record).glob("*submission.sh")
    assert [got.read_text()] == shown_before
    cancelled = [each for each in todo if each.key.startswith("c/")]
    wait_for(lambda: jobs.state(cancelled[0]) == "running", 60, "c runs")
    for each in cancelled:
        mark_cancelled(jobs.task_dir(each))
    executor.cancel(cancelled)
    wait_for(lambda: not any(map(executor.works_on, cancelled)), 60, "nobody works on c")
    assert set(over(tmp_path).values()) == {"FAILED"}
    assert states(tmp_path, todo) == {
        "a/pretrain": ("finished", 1),
        "b/pretrain": ("failed", 1),
        "c/pretrain": ("failed", 1),
        "d/pretrain": ("finished", 2),
        "a/classify": ("finished", 1),
        "b/classify": ("failed", 0),
        "c/classify": ("failed", 0),
        "d/classify": ("finished", 1),
    }
    errors = {each.key: (read_status(jobs.task_dir(each)) or Status("none")).error for each in todo}
    assert "as it was to" in str(errors["b/pretrain"])
    assert (errors["b/classify"], errors["c/pretrain"]) == ("not started: pretrain failed", "cancelled")
    gpus = [read_json(tmp_path / "runs" / run / "pretrain" / "start1.json")["gpus"] for run in ways]
    assert sorted(gpus) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("restarts", [1, 0])
def test_a_pack_that_is_told_to_stop(slurm_cluster: VirtualCluster, tmp_path: Path, restarts: int) -> None:
    """Told that time is nearly over, what runs saves and the job starts again for it alone; what is done stays so. A
    task of a whole node that waits for the pack runs in the end, unless its own parent failed."""
    todo = [acting(tmp_path, "a/pretrain"), acting(tmp_path, "b/pretrain", how="last")]
    whole = Resources(tasks_per_node=2, mem_gb=1, timeout_min=15)
    for run in "ab":
        child = acting(tmp_path, f"{run}/classify", f"{run}/pretrain")
        todo.append(Job(**{**child.__dict__, "resources": whole, "function": partial(int, "1")}))
    executor = SlurmExecutor(SlurmSettings(kind="slurm", max_requeues=restarts), tmp_path)
    executor.submit(todo)
    wait_for(lambda: jobs.is_done(todo[0]) and jobs.state(todo[1]) == "running", 90, "one is done, one runs")
    time.sleep(1)  # until it listens
    number = job_states.states(tmp_path)["a/pretrain"].job_id
    assert executor.submit(todo[1:]) == ["3 tasks are there already"]
    slurm_cluster.ask("scancel", "--signal=USR2", number)
    ended = over(tmp_path)
    found = states(tmp_path, todo[:2])
    assert found == {"a/pretrain": ("finished", 1), "b/pretrain": ("finished", 2) if restarts else ("failed", 1)}
    assert job_states.states(tmp_path)["a/pretrain"].restarts == restarts
    assert [ended["a/classify"], ended["b/classify"]] == ["COMPLETED", "COMPLETED" if restarts else "FAILED"]
    if not restarts:
        errors = [(read_status(jobs.task_dir(each)) or Status("none")).error for each in (todo[1], todo[3])]
        assert str(errors[0]).startswith("timeout: interrupted 1 times")
        assert errors[1] == "not started: pretrain failed"


STUDY = (
    "grid=seeds",
    "study.base_size=femto",
    "study.scratch_control=false",
    "study.tasks=[pretrain,classify]",
    "pretrain.steps=6",
    "classify.steps=4",
    "log.tensorboard=false",
)
SLURM = (
    "cluster=slurm",
    "cluster.devices=auto",
    "cluster.tasks_per_node=4",
    "cluster.gpus_per_node=4",
    "cluster.cpus_per_task=1",
    "cluster.mem_gb=7",
    "cluster.timeout_min=15",
)


@pytest.mark.slow
@pytest.mark.usefixtures("slurm_cluster")
@pytest.mark.parametrize(
    ("seeds", "ranks", "sizing"),
    [
        (2, 1, ("cluster.efficiency=0.8",)),
        # Six images a step divide over no more ranks, and no number of them is fast enough.
        pytest.param(
            *(2, 2, ("study.tasks=[pretrain]", "pretrain.batch_size=6", "cluster.wall_hours=1e-6")),
            marks=pytest.mark.long,
        ),
    ],
)
def test_a_packed_study_is_the_local_one(
    run_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int, ranks: int, sizing: tuple[str, ...]
) -> None:
    """Small runs with auto-sized tasks, two of one rank or two of two, are one job on one node; the script says so
    beforehand; losses, metrics and weights are those of the same study on this machine, as many ranks each, bit for
    bit."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # slots of this machine are not shared with other tests
    write_digits(tmp_path / "data", num_train=64, num_validation=16, shard_size=32)
    batches = [word for word in sizing if not word.startswith("cluster.")]
    words = (*STUDY, f"grid.axes.seed={list(range(seeds))}", f"data.root={tmp_path / 'data'}", *batches)
    slurm = (*SLURM, *(word for word in sizing if word not in batches))
    script = run_process("launch.py", *words, *slurm, "study_dir=packed", "print_script=true").stdout
    assert script.count("#!/bin/bash") == 1
    tasks = ("pretrain",) if ranks == 2 else ("pretrain", "classify")
    assert f"# {len(tasks) * seeds} tasks share this job, {seeds} at once:" in script
    packed = run_process("launch.py", *words, *slurm, "study_dir=packed", "watch=true")
    assert packed.returncode == 0, packed.stdout + packed.stderr
    assert f"{len(tasks) * seeds} tasks share 1 node" in packed.stdout
    assert len(read_submissions(tmp_path / "packed")) == 1
    local = (f"cluster.processes_per_task={ranks}", f"cluster.threads_per_slot={ranks}", "cluster.slots=1")
    here = run_process("launch.py", *words, *local, "study_dir=here")
    assert here.returncode == 0, here.stdout + here.stderr
    for run in read_json(tmp_path / "packed" / "plan.json")["runs"]:
        for task in tasks:
            own, other = (tmp_path / study / "runs" / run["run_id"] / task for study in ("packed", "here"))
            assert (own / "log.txt").is_file()
            assert read_json(own / "placement.json")["world_size"] == ranks
            assert (own / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
            assert read_json(own / "result.json")["metrics"] == read_json(other / "result.json")["metrics"]
            assert losses(own) == losses(other)


def losses(folder: Path) -> list[tuple[int, float]]:
    """The logged losses of a task."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records if "loss" in record]
