"""What sbatch gets: the parameters and the script of each array or pack of jobs."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submitit.slurm.slurm import _make_sbatch_string

from sweeps.settings.sbatch_options import gpus_in_gres, sbatch_options
from sweeps.settings.schema import SlurmSettings
from sweeps.slurm.arranging import Array, Element, Pack
from sweeps.slurm.job_states import Submission, next_submission, submission_comment, submission_folder

#: Dependencies on a job that is to end well, and on one that is to end.
AFTER_OK, AFTER_ANY = "afterok:", "afterany:"


def parameters(settings: SlurmSettings, unit: Array | Pack, comment: str, dependency: str | None) -> dict[str, Any]:
    """The parameters of one array or pack for submitit, which are options of sbatch."""
    asked, options = unit.resources, sbatch_options(settings)
    extra: dict[str, Any] = {**options, "requeue": True}
    if dependency is not None:
        # Without kill-on-invalid-dep a job whose parent failed would stay pending for ever.
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    typed_gpus = gpus_in_gres(str(options.get("gres", ""))) is not None
    if typed_gpus:  # of a whole node, of which a task may have a part
        extra["gres"] = re.sub(r"(gpu:[^,:]+):\d+", rf"\1:{asked.gpus_per_node}", str(options["gres"]))
    return {
        "job_name": title(unit),
        "comment": comment,
        "partition": settings.partition,
        "account": settings.account,
        "nodes": asked.nodes,
        "ntasks_per_node": asked.tasks_per_node,
        "gpus_per_node": None if typed_gpus else asked.gpus_per_node or None,
        "cpus_per_task": asked.cpus_per_task,
        "mem": None if asked.mem_gb is None else f"{asked.mem_gb}GB",
        "time": min(asked.timeout_min or settings.timeout_min, settings.timeout_min),
        "signal_delay_s": settings.save_seconds,
        "array_parallelism": settings.array_parallelism or len(unit.jobs),
        "additional_parameters": extra,
        "setup": [*_shared_by(unit), *setup_lines(settings)] or None,
        # Since 22.05 srun does not inherit --cpus-per-task; and one lost rank should end the others.
        "srun_args": [f"--cpus-per-task={asked.cpus_per_task}", "--kill-on-bad-exit=1", *settings.srun_args],
    }


def _shared_by(unit: Array | Pack) -> list[str]:
    """Comments in the script of a pack that name its tasks."""
    if isinstance(unit, Array):
        return []
    return [f"# {len(unit.jobs)} tasks share this job, {unit.width} at once:", *(f"#   {job.key}" for job in unit.jobs)]


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


def dependency_of(unit: Array | Pack, ids: Mapping[int, str]) -> str | None:
    """The dependency of an array or pack: on one job for all its jobs, or of each on its own in an array of the same
    length. What waits for a pack starts however that ends, as each task in it ends for itself.

    ``ids``: {id() of an array or pack: its job id in Slurm}.
    """
    if isinstance(unit, Array) and unit.parent is not None:
        return f"{'afterok' if len(unit.jobs) == 1 else 'aftercorr'}:{ids[id(unit.parent)]}"
    match unit.live_parent:
        case Pack() as pack:
            return f"{AFTER_ANY}{ids[id(pack)]}"
        case Element(array, index):
            return f"{AFTER_OK}{ids[id(array)]}{f'_{index}' if len(array.jobs) > 1 else ''}"
        case live:
            return live


def title(unit: Array | Pack) -> str:
    """The name of an array or pack in messages and in Slurm."""
    first, count = unit.jobs[0].key, len(unit.jobs)
    if count == 1:
        return first
    return f"{count} tasks on one node" if isinstance(unit, Pack) else f"{first.rpartition('/')[2]} of {count} runs"


def scripts(settings: SlurmSettings, study_dir: Path, planned: Sequence[Array | Pack]) -> list[str]:
    """The script of each array or pack as sbatch would get it, except for job ids, which are not known yet.

    In their place a script has the name of the submission that it waits for, such as JOB_1.
    """
    texts, ids = [], dict[int, str]()
    for number, unit in enumerate(planned, next_submission(study_dir)):
        ids[id(unit)] = f"JOB_{number}"
        submission = Submission(number, submission_comment(study_dir, number), ())
        folder = submission_folder(study_dir, submission)
        text = _make_sbatch_string(
            command=f"{python_command(settings)} -u -m submitit.core._submit {shlex.quote(str(folder))}",
            folder=folder,
            map_count=len(unit.jobs) if isinstance(unit, Array) and len(unit.jobs) > 1 else None,
            **parameters(settings, unit, submission.comment, dependency_of(unit, ids)),
        )
        texts.append(text)
    return texts
