"""Named recipes: ``<task>.recipe=NAME`` stands for the settings in ``recipes/<task>/NAME.yaml``, here or in the user's
folder.

A recipe file holds settings as a configuration file does. It may name another to start from (``like``) and what
differs between sizes of the ladder (``sizes``). A recipe is a starting value: any setting given beside it wins, and
a run records its settings, not its name.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nepa_scale.utils import user_folder, yaml_files
from nepa_scale.utils.errors import ConfigError, nearest

FOLDER = Path(__file__).resolve().parent


def names(task: str) -> list[str]:
    """The recipes of a task."""
    return list(_files(task))


def _files(task: str) -> dict[str, Path]:
    return user_folder.yaml_options(f"recipes/{task}", FOLDER / task)


def settings(task: str, name: str, size: str | None, check: yaml_files.Check) -> dict[str, Any]:
    """The settings of a recipe, nested; those of a ladder ``size`` where it has any of its own.

    ``check`` tells what is wrong with settings. Raises ``ConfigError`` for a name that does not exist, and with every
    mistake in the recipe's file.
    """
    known = _files(task)
    if name not in known:
        there = f" (there are: {', '.join(known)})" if known else ": this task has none"
        raise ConfigError([f"{task}.recipe={name}: no such recipe{nearest(name, known)}{there}"])
    merged: dict[str, Any] = {}
    for each in reversed(_line(task, name, known, check)):
        content = dict(each)
        by_size = content.pop("sizes", {})
        content.pop("like", None)
        merged = _merge(_merge(merged, content), by_size.get(size, {}))
    return merged


def _line(task: str, name: str, known: Mapping[str, Path], check: yaml_files.Check) -> list[Mapping[str, Any]]:
    """The content of the recipe ``name`` and of those that it builds on, each by its ``like``."""
    line: dict[str, Mapping[str, Any]] = {}
    while True:
        if name not in known:
            raise ConfigError([f"{known[list(line)[-1]]}: like: {name}: no such recipe{nearest(name, known)}"])
        if name in line:
            raise ConfigError([f"{known[name]}: like: {' -> '.join([*line, name])} comes back to itself"])
        line[name] = _read(known[name], check)
        if "like" not in line[name]:
            return list(line.values())
        name = line[name]["like"]


@functools.cache
def _read(path: Path, check: yaml_files.Check) -> Mapping[str, Any]:
    """The content of a recipe's file; a plan of many runs asks for it often. Raises ``ConfigError``."""

    def problems(content: dict[str, Any]) -> list[tuple[str, str]]:
        own = {key: value for key, value in content.items() if key not in ("like", "sizes")}
        sizes = content.get("sizes", {})
        if not isinstance(content.get("like", ""), str):
            return [("like", "like: expected the name of one recipe")]
        if not (isinstance(sizes, dict) and all(isinstance(each, dict) for each in sizes.values())):
            return [*check(own), ("sizes", "sizes: expected sizes with their settings (large: {key: value})")]
        of_sizes = [(f"sizes.{size}.{key}", line) for size, each in sizes.items() for key, line in check(each)]
        return [*check(own), *of_sizes]

    return yaml_files.read(path, problems)


def _merge(weak: dict[str, Any], strong: dict[str, Any]) -> dict[str, Any]:
    merged: Any = OmegaConf.to_container(OmegaConf.merge(weak, strong))
    return merged
