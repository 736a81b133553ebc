"""Settings that are spelt in several ways and mean the same: as for ``run_id``, they are equal for the analysis."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

from nepa_scale.config.registry import CLASSIFY, TASKS
from nepa_scale.data.preprocessing import canonical

CHANNELS = ("data.mean", "data.std")
LABEL_LIST = f"{CLASSIFY.name}.label_list"
Key = TypeVar("Key")


def spelt_alike(configs: Mapping[Key, Mapping[str, Any]]) -> dict[Key, dict[str, Any]]:
    """``configs`` with one spelling of each value, and null for what is without effect.

    No list of labels is read, as it may be gone or lie on another machine: a relative path is taken for the only
    absolute one that ends in it.
    """
    files = _whole_paths({path for config in configs.values() if isinstance(path := config.get(LABEL_LIST), str)})
    return {name: _spelt(config, files) for name, config in configs.items()}


def _spelt(config: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    idle = {f"{task}.decay" for task in TASKS if config.get(f"{task}.schedule", "wsd") != "wsd"}
    changed: dict[str, Any] = dict.fromkeys(idle & config.keys())
    changed |= {key: _channels(str(config[key])) for key in CHANNELS if key in config}
    if isinstance(path := config.get(LABEL_LIST), str):
        changed[LABEL_LIST] = files[path]
    return {**config, **changed}


def _channels(text: str) -> str:
    """The shortest spelling of ``data.mean`` or ``data.std``: one number where all channels have it."""
    channels = canonical(text).split(",")
    return ",".join(channels if len(set(channels)) > 1 else channels[:1])


def _whole_paths(paths: Collection[str]) -> dict[str, str]:
    """{path: itself without detours, or the only absolute one of ``paths`` that ends in it}."""
    plain = {path: PurePosixPath(posixpath.normpath(path)) for path in paths}
    whole = {path for path in plain.values() if path.is_absolute()}
    found = {}
    for given, path in plain.items():
        end = tuple(part for part in path.parts if part != "..")
        longer = [other for other in whole if other.parts[-len(end) :] == end]
        found[given] = str(longer[0] if len(longer) == 1 and not path.is_absolute() else path)
    return found
