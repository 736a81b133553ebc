"""Named recipes: ``<task>.recipe=NAME`` stands for the settings in ``recipes/<task>/NAME.yaml``.

A recipe file holds settings as a configuration file does. It may name another to start from (``like``) and what
differs between sizes of the ladder (``sizes``). A recipe is a starting value: any setting given beside it wins, and
a run records its settings, not its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nepa_scale.errors import ConfigError, nearest

FOLDER = Path(__file__).resolve().parent


def names(task: str) -> list[str]:
    """The recipes of a task."""
    return sorted(path.stem for path in (FOLDER / task).glob("*.yaml"))


def settings(task: str, name: str, size: str | None) -> dict[str, Any]:
    """The settings of a recipe, nested; those of a ladder ``size`` where it has any of its own.

    Raises ``ConfigError`` for a name that does not exist.
    """
    known = names(task)
    if name not in known:
        there = f" (there are: {', '.join(known)})" if known else ": this task has none"
        raise ConfigError([f"{task}.recipe={name}: no such recipe{nearest(name, known)}{there}"])
    content: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / task / f"{name}.yaml"))
    origin, by_size = content.pop("like", None), content.pop("sizes", {})
    base = {} if origin is None else settings(task, origin, size)
    return _merge(_merge(base, content), by_size.get(size, {}))


def _merge(weak: dict[str, Any], strong: dict[str, Any]) -> dict[str, Any]:
    merged: Any = OmegaConf.to_container(OmegaConf.merge(weak, strong))
    return merged
