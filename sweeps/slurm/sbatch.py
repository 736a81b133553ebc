"""What sbatch gets: jobs as arrays, and the parameters and script of each array.

An array holds equal chains of jobs, so that element i of a child waits for element i of its parent.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from sweeps.jobs.jobs import Job
from sweeps.settings.sbatch_options import gpus_in_gres, sbatch_options
from sweeps.settings.schema import SlurmSettings
from sweeps.slurm.job_states import Submission, next_submission, submission_comment, submission_folder


@dataclass(frozen=True)
class Array:
    """Jobs of one task and one shape.

    They wait for the elements of ``parent``, an array of the same length, or all for the Slurm job ``live_parent``.
    """

    jobs: tuple[Job, ...]
    parent: Array | None = None
    live_parent: str | None = None


def arranged(jobs: Sequence[Job], live: Mapping[str, str], max_size: int) -> list[Array]:
    """Group ``jobs`` into few arrays of at most ``max_size``, parents first. ``live``: {key: id of a job in Slurm}.

    A job waits for at most one other. Jobs share an array when they, and all that wait for them, have the same shape.
    """
    new = {job.key: job for job in jobs}
    children: dict[str, list[Job]] = {}
    for job in jobs:
        for parent in job.after:
            children.setdefault(parent, []).append(job)
    shapes = _shapes(jobs, children)
    groups: dict[tuple[str, str | None], list[Job]] = {}
    for job in jobs:
        parents = [parent for parent in job.after if parent in new]
        if not parents:
            waits = next((live[parent] for parent in job.after if parent in live), None)
            groups.setdefault((shapes[job.key], waits), []).append(job)
    arrays: list[Array] = []
    for (_, waits), group in groups.items():
        for start in range(0, len(group), max_size):
            root = Array(tuple(group[start : start + max_size]), live_parent=waits)
            arrays += _with_children(root, children, shapes)
    return arrays


def _with_children(array: Array, children: Mapping[str, Sequence[Job]], shapes: Mapping[str, str]) -> list[Array]:
    ordered = [
        sorted(children.get(job.key, ()), key=lambda child: (shapes[child.key], child.key)) for job in array.jobs
    ]
    below = [Array(column, parent=array) for column in zip(*ordered, strict=True)]
    return [array, *(item for child in below for item in _with_children(child, children, shapes))]


def _shapes(jobs: Sequence[Job], children: Mapping[str, Sequence[Job]]) -> dict[str, str]:
    """{key: text of the task, its resources, and the same of all jobs that wait for it}."""
    shapes: dict[str, str] = {}

    def shape(job: Job) -> str:
        if job.key not in shapes:
            below = sorted(shape(child) for child in children.get(job.key, ()))
            shapes[job.key] = f"{job.key.rpartition('/')[2]} {job.resources} [{'; '.join(below)}]"
        return shapes[job.key]

    for job in jobs:
        shape(job)
    return shapes


def parameters(settings: SlurmSettings, array: Array, comment: str, dependency: str | None) -> dict[str, Any]:
    """The parameters of one array for submitit, which are options of sbatch."""
    asked, options = array.jobs[0].resources, sbatch_options(settings)
    extra: dict[str, Any] = {**options, "requeue": True}
    if dependency is not None:
        # Without kill-on-invalid-dep a job whose parent failed would stay pending for ever.
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    typed_gpus = gpus_in_gres(str(options.get("gres", ""))) is not None
    return {
        "job_name": array.jobs[0].key if len(array.jobs) == 1 else title(array),
        "comment": comment,
        "partition": settings.partition,
        "account": settings.account,
        "nodes": asked.nodes,
        "ntasks_per_node": asked.tasks_per_node,
        "gpus_per_node": None if typed_gpus else asked.gpus_per_node or None,
        "cpus_per_task": asked.cpus_per_task,
        "mem": None if asked.mem_gb is None else f"{asked.mem_gb}GB",
        "time": asked.timeout_min if asked.timeout_min is not None else settings.timeout_min,
        "signal_delay_s": settings.save_seconds,
        "array_parallelism": settings.array_parallelism or len(array.jobs),
        "additional_parameters": extra,
        "setup": setup_lines(settings) or None,
        # Since 22.05 srun does not inherit --cpus-per-task; and one lost rank should end the others.
        "srun_args": [f"--cpus-per-task={asked.cpus_per_task}", "--kill-on-bad-exit=1", *settings.srun_args],
    }


def setup_lines(settings: SlurmSettings) -> list[str]:
    """The lines before srun: the variables, and the commands of ``cluster.setup``, each checked for its exit code.

    A trap prints which command failed, even where it ends the shell, as under ``set -e``.
    """
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in settings.env.items()]
    if not settings.setup:
        return lines
    failed = 'echo "error: cluster.setup: exit code $?: $SETUP_COMMAND" >&2'
    lines.append(f"trap {shlex.quote(failed)} EXIT")
    for command in settings.setup:
        lines += [f"SETUP_COMMAND={shlex.quote(' '.join(command.split()))}", command, "(exit $?) || exit $?"]
    return [*lines, "trap - EXIT"]


def python_command(settings: SlurmSettings) -> str:
    """The command that starts Python in a job: ``cluster.python``, such as that of a container, or this Python."""
    return shlex.quote(sys.executable) if settings.python is None else settings.python


def dependency_of(array: Array, ids: dict[int, str]) -> str | None:
    """The dependency of an array: all its jobs wait for one job, or each for its own in an array of the same length.

    ``ids``: {id() of an array: its job id in Slurm}.
    """
    if array.live_parent is not None:
        return f"afterok:{array.live_parent}"
    if array.parent is None:
        return None
    return f"{'afterok' if len(array.jobs) == 1 else 'aftercorr'}:{ids[id(array.parent)]}"


def title(array: Array) -> str:
    """The name of an array in messages."""
    first = array.jobs[0].key
    return first if len(array.jobs) == 1 else f"{first.rpartition('/')[2]} of {len(array.jobs)} runs"


def scripts(settings: SlurmSettings, study_dir: Path, planned: Sequence[Array]) -> list[str]:
    """The script of each array as sbatch would get it, except for job ids, which are not known yet.

    In their place a script has the name of the submission that it waits for, such as JOB_1.
    """
    texts, ids = [], dict[int, str]()
    for number, array in enumerate(planned, next_submission(study_dir)):
        ids[id(array)] = f"JOB_{number}"
        submission = Submission(number, submission_comment(study_dir, number), ())
        folder = submission_folder(study_dir, submission)
        text = _make_sbatch_string(
            command=f"{python_command(settings)} -u -m submitit.core._submit {shlex.quote(str(folder))}",
            folder=folder,
            map_count=len(array.jobs) if len(array.jobs) > 1 else None,
            **parameters(settings, array, submission.comment, dependency_of(array, ids)),
        )
        texts.append(text)
    return texts
