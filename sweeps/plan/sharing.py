"""Equal pre-trainings are done once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from nepa_scale.config.schema import RunConfig, config_digest
from nepa_scale.run_dir.paths import is_finished
from nepa_scale.utils.errors import UserError
from sweeps.plan.plan import Plan, run_dir
from sweeps.plan.run_spec import RunSpec


def share_pretraining(points: dict[str, RunSpec], earlier: Plan | None, study_dir: Path) -> dict[str, RunSpec]:
    """Let each pre-training be done once: of runs that differ only in what comes after it, the first does it.

    A run of an ``earlier`` plan whose pre-training is finished comes before those of this one. A run that has nothing
    else to do is left out. Raises ``UserError`` where that leaves none.
    """
    done = [
        run for run in (earlier.runs if earlier else ()) if is_finished(run_dir(study_dir, run.run_id) / "pretrain")
    ]
    owners = {run.pretraining: run.run_id for run in reversed(done) if run.pretraining}
    shared = {}
    for run_id, point in points.items():
        owner = owners.setdefault(pretraining_digest(point.config), run_id)
        if point.config.init != "pretrain" or owner == run_id:
            shared[run_id] = point
        elif point.tasks[1:]:
            where = str((run_dir(study_dir, owner) / "pretrain").absolute())
            config = dataclasses.replace(point.config, pretrain_dir=where)
            shared[run_id] = dataclasses.replace(point, config=config, tasks=point.tasks[1:], pretrained_by=owner)
    if not shared:
        names = ", ".join(dict.fromkeys(owners[pretraining_digest(point.config)] for point in points.values()))
        raise UserError(f"{study_dir}: these pre-trainings are finished, under other settings of later tasks: {names}")
    return shared


def pretraining_digest(config: RunConfig) -> str:
    return config_digest(config.pretrain_identity())
