"""The scripts that sbatch gets: shown as they are, and what of them arrives in jobs of a real Slurm, see conftest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import cloudpickle
import pytest
from slurm_cluster import ACCOUNT, QOS, VirtualCluster, wait_for

from nepa_scale.run_dir.status import read_status
from sweeps.jobs import jobs
from sweeps.jobs.jobs import Job
from sweeps.plan.machine import Resources
from sweeps.settings.schema import SlurmSettings
from sweeps.slurm import executor, job_states
from sweeps.slurm.arranging import Array, arranged
from sweeps.slurm.executor import SlurmExecutor
from sweeps.slurm.job_states import FOLDER, read_submissions, submission_folder

SMALL = Resources(mem_gb=1, timeout_min=15)
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a job cannot import a test


def note_environment(path: Path) -> None:
    """Write down where the job is and what it was given."""
    path.write_text(json.dumps({**os.environ, "python": sys.argv[0]}))


def job(study: Path, key: str, *after: str) -> Job:
    """A job that notes its environment."""
    function = partial(note_environment, study / f"{key.replace('/', '-')}.json")
    return Job(key=key, function=function, folder=study / "runs" / key / "submitit", after=after, resources=SMALL)


def ended(study: Path) -> dict[str, str]:
    """Slurm's last word on every job, once none waits or runs."""
    wait_for(lambda: not any(each.is_live for each in job_states.states(study).values()), 120, "all jobs ended")
    return {key: each.state for key, each in job_states.states(study).items()}


def run_lines(lines: list[str]) -> subprocess.CompletedProcess[str]:
    """What bash does with the lines before srun."""
    text = "\n".join([*lines, "echo srun $A"])
    return subprocess.run(["bash"], input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("setup", "failed"),
    [
        (["A=1", "B=2 # a comment", "# another"], None),
        (["A=1", "if true; then\n  A=3\nfi", "false || true"], None),
        (["true", "ls /nowhere/at/all", "A=1"], "exit code 2: ls /nowhere/at/all"),
        (["set -e", "false"], "exit code 1: false"),
        (["exit 7"], "exit code 7: exit 7"),
        (["set -u", 'echo "$NO_SUCH_VARIABLE"'], 'echo "$NO_SUCH_VARIABLE"'),
        (["it() { false; return 0; }", "it", "A=1"], None),
        (["no_such_command 'quoted'"], "exit code 127: no_such_command 'quoted'"),
    ],
)
def test_a_setup_line_that_fails_is_named(setup: list[str], failed: str | None) -> None:
    """The first command that fails ends the job before srun and is named; others leave no trace, in one shell."""
    done = run_lines(executor.setup_lines(SlurmSettings(setup=setup)))
    if failed is None:
        assert (done.returncode, done.stdout[:4], done.stderr) == (0, "srun", "")
    else:
        told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert (done.returncode != 0, done.stdout, len(told)) == (True, "", 1)
        assert told[0].startswith("error: cluster.setup: ")
        assert told[0].endswith(failed)


def test_variables_are_as_they_were_given() -> None:
    """Values of cluster.env are texts: the shell does not look into them."""
    lines = executor.setup_lines(SlurmSettings(env={"A": "$HOME 'x' \"y\"; `z`"}))
    done = run_lines([*lines, 'printf "%s" "$A"; exit'])
    assert done.stdout == "$HOME 'x' \"y\"; `z`"


@pytest.mark.parametrize(
    ("gres", "of_a_part"),
    [("gpu:h100:8", "gpu:h100:2"), ("gpu:8", "gpu:2"), ("nvme:8,gres/gpu:1g.5gb:8", "nvme:8,gres/gpu:1g.5gb:2")],
)
def test_kinds_of_gpus_replace_their_number(tmp_path: Path, gres: str, of_a_part: str) -> None:
    """With gres=gpu:KIND:N a job does not ask for gpus-per-node beside it; a part of a node asks for its part."""
    asked = Job(key="a/pretrain", function=print, folder=tmp_path, resources=Resources(gpus_per_node=8))
    settings = SlurmSettings(gpus_per_node=8, sbatch={"gres": gres})
    found = executor.parameters(settings, Array((asked,)), "comment", None)
    assert (found["gpus_per_node"], found["additional_parameters"]["gres"]) == (None, gres)
    part = Job(key="a/pretrain", function=print, folder=tmp_path, resources=Resources(gpus_per_node=2))
    assert executor.parameters(settings, Array((part,)), "comment", None)["additional_parameters"]["gres"] == of_a_part
    assert executor.parameters(SlurmSettings(), Array((asked,)), "comment", None)["gpus_per_node"] == 8


@pytest.mark.usefixtures("accounted_slurm")
def test_options_arrive_and_scripts_are_as_shown(tmp_path: Path, accounted_slurm: VirtualCluster) -> None:
    """What is shown before a launch is what sbatch gets, but for the numbers of jobs; quality of service, constraint,
    setup, variables, srun's arguments and another Python are those of the jobs."""
    settings = SlurmSettings(
        account=ACCOUNT,
        sbatch={"qos": QOS, "C": "kind2", "nice": 3, "reservation": None},
        setup=["export FROM_SETUP=$((40 + 2))", 'export SEEN="$GIVEN"'],
        env={"GIVEN": "a 'b' $c"},
        srun_args=["--label"],
        python=f"env STARTED_BY=python {sys.executable}",
    )
    todo = [job(tmp_path, f"{run}/pretrain") for run in "ab"]
    todo += [job(tmp_path, f"{run}/classify", f"{run}/pretrain") for run in "ab"] + [job(tmp_path, "c/pretrain")]
    executor = SlurmExecutor(settings, tmp_path)
    shown = executor.scripts(todo)
    assert not (tmp_path / FOLDER).exists()
    executor.submit(todo)
    assert set(ended(tmp_path).values()) == {"COMPLETED"}
    records = read_submissions(tmp_path)
    for text, record in zip(shown, records, strict=True):
        (got,) = submission_folder(tmp_path, record).glob("*submission.sh")
        expected = text
        for other in records:
            expected = expected.replace(f"JOB_{other.number}", str(other.job_id))
        assert got.read_text() == expected
    told = accounted_slurm.ask("scontrol", "show", "job", f"{records[0].job_id}_0")
    assert f"QOS={QOS}" in told
    assert "Features=kind2" in told
    assert "NodeList=virtual2" in told
    assert "Nice=3" in told
    seen = json.loads((tmp_path / "a-classify.json").read_text())
    assert (seen["FROM_SETUP"], seen["SEEN"], seen["GIVEN"]) == ("42", "a 'b' $c", "a 'b' $c")
    assert (seen["STARTED_BY"], seen["SLURMD_NODENAME"]) == ("python", "virtual2")


@pytest.mark.usefixtures("slurm_cluster")
def test_a_job_whose_setup_fails_says_so(tmp_path: Path) -> None:
    """The task fails with the command of cluster.setup that did."""
    executor = SlurmExecutor(SlurmSettings(setup=["true", "module_of_nowhere load cuda"]), tmp_path)
    todo = [job(tmp_path, "a/pretrain")]
    executor.submit(todo)
    assert ended(tmp_path) == {"a/pretrain": "FAILED"}
    executor.settle(todo)
    status = read_status(jobs.task_dir(todo[0]))
    assert status is not None
    assert status.error == "cluster.setup: exit code 127: module_of_nowhere load cuda"


BIG = Resources(nodes=2)


def shaped(key: str, *after: str, resources: Resources = Resources()) -> Job:  # noqa: B008  frozen
    """A job that is only looked at."""
    return Job(key=key, function=print, folder=Path(key), after=after, resources=resources)


def chain(run: str, *tasks: str, resources: Resources = Resources()) -> list[Job]:  # noqa: B008  frozen
    """A pre-training and tasks after it."""
    first = shaped(f"{run}/pretrain", resources=resources)
    return [first, *(shaped(f"{run}/{task}", first.key, resources=resources) for task in tasks)]


def keys(arrays: list[Array]) -> list[list[str]]:
    """The keys of each array."""
    return [[item.key for item in array.jobs] for array in arrays]


def test_one_array_for_each_task_of_equal_runs() -> None:
    """Three runs of three tasks, told run by run, are three arrays in the same order of runs."""
    jobs = [item for run in "abc" for item in chain(run, "classify", "segment")]
    arrays = arranged(jobs, {}, 1001)
    assert keys(arrays) == [[f"{run}/{task}" for run in "abc"] for task in ("pretrain", "classify", "segment")]
    assert arrays[0].parent is None and arrays[1].parent is arrays[0] and arrays[2].parent is arrays[0]


def test_other_shapes_are_other_arrays() -> None:
    """A run that asks for more, or on which less hangs, does not join the others: indices would no longer match."""
    jobs = [*chain("a", "classify"), *chain("b", "classify", resources=BIG), *chain("c"), *chain("d", "classify")]
    arrays = keys(arranged(jobs, {}, 1001))
    assert ["a/pretrain", "d/pretrain"] in arrays and ["a/classify", "d/classify"] in arrays
    assert ["b/pretrain"] in arrays and ["c/pretrain"] in arrays


def test_branches_and_shared_pretraining() -> None:
    """Children of one parent are arrays of their own, and grandchildren follow them."""
    jobs = [
        *chain("t"),
        shaped("b/pretrain", "t/pretrain"),
        shaped("c/pretrain", "t/pretrain"),
        shaped("b/probe", "b/pretrain"),
    ]
    arrays = arranged(jobs, {}, 1001)
    parents = {array.jobs[0].key: array.parent and array.parent.jobs[0].key for array in arrays}
    trunk = "t/pretrain"
    assert parents == {trunk: None, "b/pretrain": trunk, "c/pretrain": trunk, "b/probe": "b/pretrain"}


def test_a_parent_that_is_in_slurm_already() -> None:
    """What waits for a job of an earlier launch hangs on that job; nothing else shares its array."""
    jobs = [shaped("a/classify", "a/pretrain"), shaped("b/classify", "b/pretrain"), shaped("c/classify")]
    arrays = arranged(jobs, {"a/pretrain": "7_0", "b/pretrain": "7_1"}, 1001)
    assert {array.jobs[0].key: array.live_parent for array in arrays} == {
        "a/classify": "7_0",
        "b/classify": "7_1",
        "c/classify": None,
    }


@pytest.mark.parametrize(("count", "limit"), [(7, 3), (6, 3), (2000, 1001)])
def test_split_at_the_clusters_limit(count: int, limit: int) -> None:
    """No array is longer than Slurm allows, each child is as long as its parent, and no job is lost or doubled."""
    jobs = [item for number in range(count) for item in chain(str(number), "classify")]
    arrays = arranged(jobs, {}, limit)
    assert max(len(array.jobs) for array in arrays) <= limit
    for array in arrays:
        if array.parent is not None:
            assert [item.after[0] for item in array.jobs] == [item.key for item in array.parent.jobs]
    assert sorted(key for group in keys(arrays) for key in group) == sorted(item.key for item in jobs)
