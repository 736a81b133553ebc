"""``branch=true``: one long pre-training under schedule wsd serves every shorter data size of a grid.

Each image is seen once, so a data size is a length. The longest run keeps the state in which each shorter one would
begin its decay; those take that state and do their decay alone (arXiv 2405.18392, section 4).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nepa_scale.config import branch, overrides
from nepa_scale.config.subsets import num_train_images
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.run_spec import Pairs, RunSpec
from sweeps.settings.schema import Launch

BRANCH_AXIS = "pretrain.num_images"
SET_BY_BRANCHING = ("pretrain.steps", "pretrain.epochs", "pretrain.warmup", "pretrain.schedule", BRANCH_AXIS)


def with_branch_points(launch: Launch, pairs_of: Callable[[Launch, dict[str, Any]], Pairs]) -> Launch:
    """``launch`` with a length of one pass in the place of each data size, all with the warm-up of the shortest.

    Raises ``ConfigError`` when the grid varies anything but the number of images and the seed, or asks for more images
    than a single pass has.
    """
    sizes = launch.grid.axes.get(BRANCH_AXIS)
    others = [key for key in (*launch.grid.axes, *launch.grid.zip) if key not in (BRANCH_AXIS, "seed")]
    if not isinstance(sizes, list) or not sizes or others or launch.grid.points:
        varied = f"varies {', '.join(others)}" if others else f"has no axis {BRANCH_AXIS}"
        raise ConfigError([f"branch=true: grid={launch.grid_name} {varied}; use grid=data_size"])
    problems = [
        f"{key}={text}: branch=true sets it from the data sizes"
        for key, text in launch.pairs
        if key in SET_BY_BRANCHING
    ]
    problems += [f"grid.axes.{BRANCH_AXIS}: {size} is given twice" for size in set(sizes) if sizes.count(size) > 1]
    if problems:
        raise ConfigError(problems)
    base = overrides.build(pairs_of(launch, {"pretrain.steps": 1, "pretrain.schedule": "wsd"}), tasks=("pretrain",))
    batch, available = base.pretrain.batch_size, num_train_images(base, "pretrain")
    problems += [
        f"grid.axes.{BRANCH_AXIS}: branch=true sees each image once,"
        f" and {size} is none of {batch} (a batch) to {available}"
        for size in sizes
        if not batch <= size <= available
    ]
    if problems:
        raise ConfigError(problems)
    steps = {size: size // batch for size in sizes}
    # Rounded, not up as a run's own warm-up is: what it becomes is part of the ids of existing studies.
    warmup = round(base.pretrain.warmup * min(steps.values()))
    points = {
        f"num_images={size}": {
            "pretrain.steps": count,
            "pretrain.warmup": warmup / count,
            "pretrain.schedule": "wsd",
        }
        for size, count in steps.items()
    }
    axes = {key: values for key, values in launch.grid.axes.items() if key != BRANCH_AXIS}
    return dataclasses.replace(launch, grid=dataclasses.replace(launch.grid, axes=axes, points=points))


def connect_branches(points: dict[str, RunSpec], runs_dir: Path) -> dict[str, RunSpec]:
    """Let the pre-trainings of each seed branch off their longest; ``runs_dir`` holds the runs."""
    families: dict[int, dict[str, RunSpec]] = {}
    for run_id, point in points.items():
        if point.config.init == "pretrain":
            families.setdefault(point.config.seed, {})[run_id] = point
    connected = dict(points)
    for family in families.values():
        trunk = max(family, key=lambda run_id: _steps(family[run_id]))  # the first of those that share one
        longest = _steps(family[trunk])
        starts = sorted({_start(point) for point in family.values() if _steps(point) != longest})
        folder = str((runs_dir / trunk / "pretrain").absolute())
        for run_id, point in family.items():
            saving = point.config.checkpoint
            if _steps(point) == longest:
                saving = dataclasses.replace(saving, keep_steps=",".join(map(str, starts)) or None)
            else:
                saving = dataclasses.replace(saving, branch_from=folder)
            config = dataclasses.replace(point.config, checkpoint=saving)
            origin = None if _steps(point) == longest else trunk
            connected[run_id] = dataclasses.replace(point, config=config, branched_from=origin)
    return connected


def first_step(point: RunSpec, task: str) -> int:
    """The step after which ``task`` does its own work: a branch's pre-training begins where its decay does."""
    return _start(point) if point.branched_from is not None and task == "pretrain" else 0


def _steps(point: RunSpec) -> int:
    return point.config.pretrain.steps or 0


def _start(point: RunSpec) -> int:
    """The step at which a run's decay begins."""
    return branch.stable_part(point.config.identity())[1]
