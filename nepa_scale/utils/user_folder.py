"""What users add to the shipped things: by a folder of theirs, and by plugins.

The user's folder has sizes, data sets, studies, grids, clusters and recipes. It is ``config_dir=DIR`` of a command,
else ``$NEPA_CONFIG``, else the working directory if that holds a ``nepa.yaml``. ``nepa.yaml`` has the sizes and data
sets; the rest are files in ``study/``, ``grid/``, ``cluster/`` and ``recipes/TASK/``. Names of shipped ones are
refused, so that a name means the same everywhere.

Plugins are installed packages that register tasks, objectives, laws and trackers. A package says in its
``pyproject.toml`` what registers each kind, a function without arguments, as in
``[project.entry-points."nepa_scale.plugins"]`` the line ``tasks = "my_package.tasks:register"``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from nepa_scale.utils import yaml_files
from nepa_scale.utils.errors import ConfigError, UserError, first_line, nearest
from nepa_scale.utils.files import typed_path, until_changed

GROUP = "nepa_scale.plugins"
KEY, VARIABLE, NAME = "config_dir", "NEPA_CONFIG", "nepa.yaml"
SECTIONS = {"sizes": "{NAME: {embed_dim: N, depth: N, heads: N}}", "data_sets": "{NAME: {folder: DIR, train: N, ...}}"}
"""Of ``nepa.yaml``, each with what it holds."""

Item = TypeVar("Item")


class Registry(dict[str, Item]):
    """The items of one ``kind`` by name: those that are shipped, then those that plugins register.

    ``reserved``: further names that none may have.
    """

    def __init__(self, kind: str, shipped: Mapping[str, Item], reserved: Collection[str] = ()) -> None:
        super().__init__(shipped)
        self._kind, self._reserved = kind, reserved

    def register(self, name: str, item: Item) -> None:
        """Add the item of a plugin. Raises ``UserError`` where its name is taken."""
        if name in self or name in self._reserved:
            raise UserError(f"{self._kind} '{name}' is there already")
        self[name] = item

    def load_plugins(self) -> None:
        """Call what installed packages name for this kind; one that fails is left out, with a line on stderr."""
        for point in entry_points(group=GROUP, name=f"{self._kind}s"):
            try:
                point.load()()
            except Exception as error:  # whatever somebody's plugin raises must not break every command
                message = f"plugin {point.name} = {point.value} is left out: {first_line(error)}"
                print(f"warning: {message}", file=sys.stderr)


def take(words: Sequence[str]) -> list[str]:
    """``words`` without ``config_dir=DIR``: from now on that is the folder of this process and of those it starts.

    Raises ``ConfigError`` where it is no folder.
    """
    kept, remaining = [], iter(words)
    for word in remaining:
        key, sign, value = word.removeprefix("--").partition("=")
        if key.replace("-", "_") != KEY or not (sign or word.startswith("--")):
            kept.append(word)
            continue
        value = value if sign else next(remaining, "")
        if not (value and typed_path(value).is_dir()):
            raise ConfigError([f"{KEY}={value}: no such folder; name one that holds {NAME}, study/, grid/ or cluster/"])
        os.environ[VARIABLE] = str(typed_path(value).absolute())
    return kept


def folder() -> Path | None:
    """The user's folder, absolute; None without one. Raises ``ConfigError`` where ``$NEPA_CONFIG`` is no folder."""
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_dir():
            raise ConfigError([f"{VARIABLE}={named}: no such folder; name one that holds {NAME}, or unset it"])
        return Path(named).absolute()
    return Path.cwd() if Path(NAME).is_file() else None


def environment() -> dict[str, str]:
    """The variable by which processes elsewhere find the same folder; empty without one."""
    there = folder()
    return {} if there is None else {VARIABLE: str(there)}


def yaml_options(kind: str, shipped: Path) -> dict[str, Path]:
    """{name: file} of what can be chosen: the files of ``shipped``, then those of ``kind`` in the user's folder.

    Raises ``ConfigError`` for the name of a shipped one.
    """
    files = {path.stem: path for path in sorted(shipped.glob("*.yaml"))}
    there = folder()
    own = sorted((there / kind).glob("*.yaml")) if there is not None else []
    taken = [path for path in own if path.stem in files]
    if taken:
        raise ConfigError([f"{path}: '{path.stem}' is the name of a shipped {kind}; choose another" for path in taken])
    return files | {path.stem: path for path in own}


def section(name: str, check: yaml_files.Check) -> Callable[[], Mapping[str, Any]]:
    """What gives the section ``name`` of the user's ``nepa.yaml`` as it is now, {} without one.

    ``check`` tells what is wrong with its content, by keys below the section. The returned function raises
    ``ConfigError`` with every mistake and its line.
    """

    def problems(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from ((str(key), _unknown(str(key), SECTIONS)) for key in content if key not in SECTIONS)
        own = content.get(name)
        if own is not None and not (isinstance(own, dict) and all(isinstance(each, dict) for each in own.values())):
            yield name, f"{name}: expected names with what they are: {SECTIONS[name]}"
        else:
            yield from ((f"{name}.{key}", f"{name}.{problem}") for key, problem in check(own or {}))

    read = until_changed(lambda path: yaml_files.read(path, problems).get(name) or {})

    def current() -> Mapping[str, Any]:
        there = folder()
        return read(there / NAME) if there is not None and (there / NAME).is_file() else {}

    return current


def key_problems(name: str, given: Mapping[Any, Any], needed: Collection[str]) -> Iterator[tuple[str, str]]:
    """(key, problem) of the keys that an entry called ``name`` has too many; where it has none, of those it lacks."""
    unknown = [key for key in given if key not in needed]
    yield from ((f"{name}.{key}", f"{name}: {_unknown(str(key), needed)}") for key in unknown)
    yield from ((name, f"{name}: {key} is missing") for key in needed if not unknown and key not in given)


def _unknown(key: str, known: Collection[str]) -> str:
    return f"unknown key '{key}'{nearest(key, known)} (there are: {', '.join(known)})"
