"""Grids of equal compute: for every budget of FLOPs the sizes of a study, each as long as the budget lasts.

The optimum size of a budget is where error is least along one of its curves (Hoffmann et al., arXiv 2203.15556,
approach 2). The batch stays as the study has it, so a length is a whole number of steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from nepa_scale.config import overrides
from nepa_scale.placement.costs import TaskCost, task_cost
from nepa_scale.utils.cli import LARGEST
from nepa_scale.utils.errors import ConfigError
from sweeps.plan.optimum import outside_ladder
from sweeps.plan.run_spec import Pairs
from sweeps.settings.schema import Launch

TOLERANCE = 0.01
MOST_STEPS = overrides.KEYS["pretrain.steps"].get("high", LARGEST)


def with_isoflop_points(launch: Launch, pairs_of: Callable[[Launch, dict[str, Any]], Pairs]) -> Launch:
    """``launch`` with a named point for every size and budget in place of its rule.

    ``pairs_of`` gives the settings of one point. Raises ``ConfigError`` when a list is empty, a budget is named twice
    or, unless such points are dropped, too small for whole steps to meet it within 1 %, or its optimum lies outside
    the sizes by the study of ``optimum_from``.
    """
    points, unmet = isoflop_points(launch, pairs_of)
    if (unmet and launch.unfit == "refuse") or not points:
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
    off = {} if launch.optimum_from is None else outside_ladder(launch.optimum_from, study.budgets, ladder)
    points: dict[str, dict[str, Any]] = {}
    unmet: dict[str, str] = {}
    for size, cost in costs.items():
        step = cost.flops_train
        for budget in study.budgets:
            steps, name = max(1, round(budget / step)), f"{size} {budget:g} FLOPs"
            if budget in off:
                unmet[name] = off[budget]
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
    return task_cost(overrides.build(pairs, tasks=("pretrain",)), "pretrain")
