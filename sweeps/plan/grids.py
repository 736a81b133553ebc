"""What a grid declares: the settings of each of its points, and what is wrong with how it says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nepa_scale.config import overrides
from sweeps.settings.schema import MOST_POINTS, RESERVED, GridSettings


def combinations(grid: GridSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name of the point or "", settings) for every point, times every row, times every combination of the axes."""
    axes = axes_of(grid)
    for name, settings in (grid.points or {"": {}}).items():
        for repetition in _repetitions(settings):
            for row in _rows(grid):
                for values in itertools.product(*axes.values()):
                    yield name, {**settings, **repetition, **row, **dict(zip(axes, values, strict=True))}


def varied_settings(grid: GridSettings) -> tuple[str, ...]:
    """The settings that differ between runs."""
    named = [key for settings in grid.points.values() for key in settings]
    return tuple(dict.fromkeys([*named, *grid.zip, *axes_of(grid)]))


def count_points(grid: GridSettings) -> int:
    """How many points there are, without listing them."""
    rows = [len(values) if isinstance(values, list) else 1 for values in grid.zip.values()]
    points = sum(len(_repetitions(settings)) for settings in grid.points.values())
    return math.prod([max(1, points), min(rows, default=1), *map(len, axes_of(grid).values())])


def grid_problems(pairs: Sequence[tuple[str, str]], name: str, grid: GridSettings) -> list[str]:
    """Complaints about settings that are not the user's to give here, and about empty axes."""
    axes, varying = axes_of(grid), varied_settings(grid)
    problems = [f"{key}={text}: {RESERVED[key]}" for key, text in pairs if key in RESERVED]
    for key, text in pairs:
        axis = "model.size" if key == "model" else key
        if axis in axes:
            problems.append(f"{key}={text}: grid={name} varies this setting; choose with grid.axes.{axis}=[{text}]")
        elif axis in varying:
            problems.append(f"{key}={text}: grid={name} varies this setting")
    problems += [f"grid.axes.{key}: no values" for key, values in axes.items() if not values]
    problems += [f"grid.zip.{key}: no values" for key, values in grid.zip.items() if values == []]
    without_effect = [key for key in varying if overrides.KEYS.get(key, {}).get("orchestration")]
    problems += [
        f"grid={name}: {key} changes how work is done, not its result; it cannot vary" for key in without_effect
    ]
    if count_points(grid) > MOST_POINTS:
        problems.append(
            f"grid={name}: {count_points(grid)} points; at most {MOST_POINTS} can be planned: give shorter lists"
        )
    return problems if varying or grid.tuned else [*problems, f"grid={name}: no axes; give grid.axes.SETTING=[...]"]


def axes_of(grid: GridSettings) -> dict[str, list[Any]]:
    return {key: values if isinstance(values, list) else [values] for key, values in grid.axes.items()}


def _repetitions(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A named point may list its seeds: it is then run once with each."""
    seeds = settings.get("seed")
    return [{"seed": seed} for seed in seeds] if isinstance(seeds, list) else [{}]


def _rows(grid: GridSettings) -> list[dict[str, Any]]:
    """The settings that vary together, a point each; one without any where there are none."""
    columns = {key: values if isinstance(values, list) else [values] for key, values in grid.zip.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)] if columns else [{}]
