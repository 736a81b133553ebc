"""What a plan should not be started with unread: tasks that outlast their jobs, GPUs that are not there."""

from __future__ import annotations

from nepa_scale.placement.visible_gpus import unseen
from sweeps.plan.plan import Plan, PlannedTask
from sweeps.plan.units import duration_text
from sweeps.settings.schema import Cluster, SlurmSettings


def plan_warnings(plan: Plan, cluster: Cluster) -> list[str]:
    """A line for each. They rest on estimates, or on what this machine shows, so nothing is refused."""
    if not isinstance(cluster, SlurmSettings):
        return [reason] if (reason := unseen()) is not None else []
    lines = (
        f"{run.label} {name}: {reason}"
        for run in plan.runs
        for name, task in run.tasks.items()
        if (reason := _outlasts(task, cluster)) is not None
    )
    return list(dict.fromkeys(lines))


def _outlasts(task: PlannedTask, cluster: SlurmSettings) -> str | None:
    """Why a task does not end within its jobs: each starts anew, trains, and saves before its time limit."""
    if task.seconds is None:
        return None
    minutes = task.resources.timeout_min or cluster.timeout_min
    useful = max(0.0, minutes * 60 - cluster.startup_seconds - cluster.save_seconds)
    jobs = 1 + cluster.max_requeues
    if task.seconds - cluster.startup_seconds <= jobs * useful or task.seconds <= minutes * 60:
        return None
    return (
        f"takes about {duration_text(task.seconds)}, and {jobs} jobs of {minutes} minutes train for"
        f" {duration_text(jobs * useful)}; raise cluster.timeout_min or cluster.max_requeues"
    )
