"""Grids whose points are computed: equal compute (isoflop), and branches of one long pre-training (``branch=true``).

Equal compute: for every budget of FLOPs the sizes of a study, each trained for as long as the budget lasts. The optimum
size of a budget is where the error along one of its curves is least (Hoffmann et al., arXiv 2203.15556, approach 2).
The batch stays that of the study, so a length is a whole number of steps.

Branches: of pre-trainings that differ only in their length the longest keeps the states in which the shorter ones begin
their decay; each of these starts from such a state and does its decay only (arXiv 2405.18392, section 4). A length is
a number of images, each seen once, or of steps, in which images come again after a pass over all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nepa_scale.config import learning_rate, overrides
from nepa_scale.config.data_facts import num_train_images
from nepa_scale.config.registry import PRETRAIN, spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.placement.costs import TaskCost, task_cost
from nepa_scale.utils.cli import LARGEST
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.grids import Pairs, RunSpec, varied_settings
from sweeps.plan.plan import count_text
from sweeps.settings.schema import LENGTHS, Launch, listed

IMAGES_AXIS, STEPS_AXIS = LENGTHS
FOLLOW_LENGTHS = ("pretrain.warmup", "pretrain.schedule")
SET_BY_BRANCHING = (STEPS_AXIS, IMAGES_AXIS, "pretrain.epochs", *FOLLOW_LENGTHS)
TOLERANCE = 0.01
MOST_STEPS = overrides.KEYS["pretrain.steps"].get("high", LARGEST)


def with_isoflop_points(launch: Launch, pairs_of: Callable[[Launch, dict[str, Any]], Pairs]) -> Launch:
    """``launch`` with a named point for every size and budget, in place of the rule.

    ``pairs_of`` gives the settings of one point. Raises ``ConfigError`` when a list is empty, a budget is named twice
    or, unless such points are dropped, too small for whole steps to meet it within 1 %, or its optimum lies outside
    the sizes by the study of ``optimum_from``.
    """
    points, unmet = isoflop_points(launch, pairs_of)
    if (unmet and launch.infeasible == "error") or not points:
        raise ConfigError([f"study.budgets: {reason}" for reason in dict.fromkeys(unmet.values())])
    grid = dataclasses.replace(launch.grid, rule=None, points={**launch.grid.points, **points})
    return dataclasses.replace(launch, grid=grid)


def isoflop_points(
    launch: Launch, pairs_of: Callable[[Launch, dict[str, Any]], Pairs]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """{point: its settings} of the sizes and budgets that can be met, and {point: reason} of the others."""
    study, problems = launch.study, list[str]()
    problems += [] if study.sizes else [f"grid={launch.grid_name}: no sizes; give study.sizes=[...]"]
    problems += [] if study.budgets else [f"grid={launch.grid_name}: no budgets; give study.budgets=[...] in FLOPs"]
    if len(set(study.budgets)) < len(study.budgets):
        problems.append("study.budgets: a budget is given twice")
    if problems:
        raise ConfigError(problems)
    costs = {size: _cost_of_a_step(pairs_of(launch, {"model.size": size, "pretrain.steps": 1})) for size in study.sizes}
    ladder = {size: cost.params_backbone for size, cost in costs.items()}
    outside = {} if launch.optimum_from is None else outside_ladder(launch.optimum_from, study.budgets, ladder)
    points: dict[str, dict[str, Any]] = {}
    unmet: dict[str, str] = {}
    for size, cost in costs.items():
        step = cost.flops_train
        for budget in study.budgets:
            steps, name = max(1, round(budget / step)), f"{size} {budget:g} FLOPs"
            if budget in outside:
                unmet[name] = outside[budget]
            elif abs(steps * step - budget) > TOLERANCE * budget:
                unmet[name] = (
                    f"{budget:g} FLOPs are {budget / step:.1f} steps of {size}, which no whole number"
                    f" meets within {TOLERANCE:.0%}; give at least {step / (2 * TOLERANCE):.2g}, or leave {size} out"
                )
            elif steps > MOST_STEPS:
                unmet[name] = (
                    f"{budget:g} FLOPs are {budget / step:.2g} steps of {size}, more than pretrain.steps may be;"
                    f" give at most {step * MOST_STEPS:.2g}, or leave {size} out"
                )
            else:
                points[name] = {"model.size": size, "pretrain.steps": steps}
    return points, unmet


def _cost_of_a_step(pairs: Pairs) -> TaskCost:
    """Of one step of pre-training."""
    return task_cost(overrides.build(pairs, tasks=(PRETRAIN.name,)), PRETRAIN.name)


def outside_ladder(source: Path, budgets: Sequence[float], params: Mapping[str, int]) -> dict[float, str]:
    """{budget: reason} of those ``budgets`` in FLOPs whose best size lies outside ``params`` for every error.

    The errors of such a budget have no minimum between its sizes, so its runs would not tell the best size.

    ``params``: {size: its backbone parameters}. ``source``: the study directory whose runs give the best sizes.

    Raises ``UserError`` when ``source`` cannot be read, ``ConfigError`` when its runs give no best size for any error.
    """
    from analysis.findings.two_axes import best_sizes
    from analysis.study.records import read_study

    best_of, missing = best_sizes(read_study(source), budgets)
    if not best_of:
        why = "; ".join(f"{error}: {reason}" for error, reason in missing.items())
        raise ConfigError([f"optimum_from={source}: no best size can be told from its finished runs ({why})"])
    least, most = min(params.values()), max(params.values())
    reasons = {}
    for index, budget in enumerate(budgets):
        best = {error: sizes[index] for error, sizes in best_of.items()}
        if not any(least <= size <= most for size in best.values()):
            optima = ", ".join(f"{count_text(size)} parameters for {error}" for error, size in best.items())
            reasons[budget] = (
                f"the optimum of {budget:g} FLOPs lies outside the ladder: {optima} by {source},"
                f" and its sizes have {count_text(least)} to {count_text(most)}"
            )
    return reasons


def with_branch_points(launch: Launch, pairs_of: Callable[[Launch, dict[str, Any]], Pairs]) -> Launch:
    """``launch`` with its lengths of pre-training as points in steps, all with the warm-up of the shortest.

    A point that names one of the lengths itself has that one alone.

    Raises ``ConfigError`` when the grid has no axis of lengths, varies something else that branches share, or asks for
    more images than a single pass has.
    """
    axis = _length_axis(launch)
    sizes = listed(launch.grid.axes)[axis]
    # Steps repeat the images there are, of which pretrain.num_images may take a part.
    fixed = {*SET_BY_BRANCHING} - ({IMAGES_AXIS} if axis == STEPS_AXIS else set())
    problems = [f"{key}={text}: branch=true sets it from {axis}" for key, text in launch.pairs if key in fixed]
    problems += [f"grid.axes.{axis}: {size} is no number" for size in sizes if not isinstance(size, int)]
    problems += [f"grid.axes.{axis}: {size} is given twice" for size in set(sizes) if sizes.count(size) > 1]
    if problems:
        raise ConfigError(problems)
    base = overrides.build(pairs_of(launch, {"pretrain.steps": 1, "pretrain.schedule": "wsd"}), tasks=(PRETRAIN.name,))
    steps = {size: size for size in sizes} if axis == STEPS_AXIS else _steps_of_one_pass(sizes, base)
    # Rounded to nearest, where a run's own warm-up is rounded up: it is part of the run_ids of existing studies.
    warmup = round(base.pretrain.warmup * min(steps.values()))
    points = {
        ", ".join(filter(None, (name, f"{axis.split('.')[1]}={size}"))): {
            **{key: value for key, value in values.items() if key != axis},
            "pretrain.steps": count,
            "pretrain.warmup": warmup / count,
            "pretrain.schedule": "wsd",
        }
        for name, values in (launch.grid.points or {"": {}}).items()
        for size, count in steps.items()
        if values.get(axis, size) == size
    }
    axes = {key: values for key, values in launch.grid.axes.items() if key != axis}
    return dataclasses.replace(launch, grid=dataclasses.replace(launch.grid, axes=axes, points=points))


def _length_axis(launch: Launch) -> str:
    """The one axis of the grid that holds lengths of pre-training. Raises ``ConfigError`` without exactly one."""
    varied = varied_settings(launch.grid)
    lengths = [key for key in LENGTHS if launch.grid.axes.get(key)]
    clashing = [key for key in varied if key in (*SET_BY_BRANCHING, "pretrain.batch_size") and key not in lengths[:1]]
    if lengths and not clashing:
        return lengths[0]
    reason = f"has no axis {IMAGES_AXIS} or {STEPS_AXIS}; use grid=data_size"
    if lengths:
        reason = f"varies {', '.join(clashing)} beside {lengths[0]}"
    raise ConfigError([f"branch=true: grid={launch.grid_name} {reason}"])


def _steps_of_one_pass(sizes: Sequence[int], base: RunConfig) -> dict[int, int]:
    """{images: steps in which each is seen once}. Raises ``ConfigError`` for numbers that are no single pass."""
    batch, available = base.pretrain.batch_size, num_train_images(base, PRETRAIN.name)
    problems = [
        f"grid.axes.{IMAGES_AXIS}: branch=true sees each image once,"
        f" and {size} is none of {batch} (a batch) to {available}; {STEPS_AXIS} repeats them"
        for size in sizes
        if not batch <= size <= available
    ]
    if problems:
        raise ConfigError(problems)
    return {size: size // batch for size in sizes}


def connect_branches(run_specs: dict[str, RunSpec], runs_dir: Path) -> dict[str, RunSpec]:
    """Let pre-trainings that differ in their length alone branch off the longest, a run in ``runs_dir``."""
    families: dict[frozenset[tuple[str, Any]], dict[str, RunSpec]] = {}
    for run_id, run_spec in run_specs.items():
        if run_spec.config.init == "pretrain":
            alike = learning_rate.shared_settings(run_spec.config.identity())
            families.setdefault(frozenset(alike.items()), {})[run_id] = run_spec
    connected = dict(run_specs)
    for family in families.values():
        trunk = max(family, key=lambda run_id: _steps(family[run_id]))  # the first of several as long
        longest = _steps(family[trunk])
        starts = sorted({_start(run_spec) for run_spec in family.values() if _steps(run_spec) != longest})
        folder = str((runs_dir / trunk / PRETRAIN.name).absolute())
        for run_id, run_spec in family.items():
            saving = run_spec.config.checkpoint
            if _steps(run_spec) == longest:
                saving = dataclasses.replace(saving, keep_steps=",".join(map(str, starts)) or None)
            else:
                saving = dataclasses.replace(saving, branch_from=folder)
            config = dataclasses.replace(run_spec.config, checkpoint=saving)
            origin = None if _steps(run_spec) == longest else trunk
            connected[run_id] = dataclasses.replace(run_spec, config=config, branched_from=origin)
    return connected


def first_step(run_spec: RunSpec, task: str) -> int:
    """The step at which ``task`` starts: a branch's pre-training at its decay, anything else at 0."""
    return _start(run_spec) if run_spec.branched_from is not None and not spec(task).downstream else 0


def _steps(run_spec: RunSpec) -> int:
    return run_spec.config.pretrain.steps or 0


def _start(run_spec: RunSpec) -> int:
    """The step at which a run's decay begins."""
    return learning_rate.stable_part(run_spec.config.identity())[1]
