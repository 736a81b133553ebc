"""The files that a launch chooses from, in ``conf/`` and in the user's folder: they are checked, with the line of each
mistake, and composed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nepa_scale.utils import user_folder, yaml_files
from nepa_scale.utils.cli import to_text
from nepa_scale.utils.errors import ConfigError, nearest
from sweeps.settings.keys import SECTIONS, Problems, declared, set_key, unknown_key
from sweeps.settings.schema import GROUPS, KINDS, Tree

CONF = Path(__file__).resolve().parents[1] / "conf"
MAIN = "config"
DEFAULTS = "defaults"  # Hydra's key for the files that a file builds on
KIND = "kind"  # of a cluster: which keys it has


def options(group: str) -> list[str]:
    """The names that ``group=NAME`` accepts: the shipped ones, then those of the user's folder."""
    return list(_files(group))


def _files(group: str) -> dict[str, Path]:
    return user_folder.yaml_options(group, CONF / group)


def compose_tree(choices: Mapping[str, str]) -> tuple[DictConfig, dict[str, str]]:
    """The files of the options chosen, {group: name}, under the types of ``Tree``; and the option used of each group.

    Settings of runs become flat: {dotted key: value}. Raises ``ConfigError`` with every mistake in names and files.
    """
    problems = [
        f"{group}={name}: no such {group}{nearest(name, valid)} (there are: {', '.join(valid)})"
        for group, name in choices.items()
        if name not in (valid := options(group))
    ]
    if problems:
        raise ConfigError(problems)
    _check_files(choices)
    try:
        with initialize_config_dir(str(CONF), version_base=None):
            chosen = [f"{group}={_quoted(name)}" for group, name in choices.items()]
            composed = compose(MAIN, [*_search_path(), *chosen], return_hydra_config=True)
    except RecursionError as error:
        words = " ".join(f"{group}={name}" for group, name in choices.items())
        raise ConfigError([f"{CONF}: {words}: '{DEFAULTS}' of a file lead back to that file"]) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError([f"{CONF}: {' '.join(str(error).split())}"]) from error
    content: Any = OmegaConf.to_container(composed)
    used = {group: str(composed.hydra.runtime.choices[group]) for group in GROUPS}
    del content["hydra"]
    tree = _blank_tree(content["cluster"].get("kind"))
    problems = [f"{CONF}: {problem}" for _, problem in _fill(tree, "", content)]
    if problems:  # in files that the chosen ones build on
        raise ConfigError(problems)
    return tree, used


def _search_path() -> list[str]:
    """The word that tells Hydra to look for files in the user's folder, too."""
    own = user_folder.folder()
    return [] if own is None else [f"hydra.searchpath=[{_quoted(f'file://{own}')}]"]


def _quoted(name: str) -> str:
    """``name`` quoted for Hydra, so that it may have any character."""
    return "'" + name.replace("'", r"\'") + "'"


def _check_files(choices: Mapping[str, str]) -> None:
    """Raises ``ConfigError`` with every mistake in the files that are read for ``choices``."""
    main = yaml_files.read(CONF / f"{MAIN}.yaml", lambda content: _fill(_blank_tree("local"), "", content))
    chosen = {
        group: name for each in main.get(DEFAULTS) or [] if isinstance(each, dict) for group, name in each.items()
    }
    problems: list[str] = []
    for group, name in {**chosen, **choices}.items():
        try:
            yaml_files.read(_files(group)[name], functools.partial(_problems, group))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _problems(group: str, content: dict[str, Any]) -> Problems:
    """(key, problem) of what is wrong in a file of ``group``."""
    kind = content.get(KIND, "local") if group == "cluster" else "local"
    if kind not in KINDS:
        yield KIND, f"kind={kind}: not one of {', '.join(KINDS)}{nearest(str(kind), KINDS)}"
    else:
        for key, problem in _fill(_blank_tree(kind), f"{group}.", content):
            yield key.removeprefix(f"{group}."), problem


def _fill(tree: DictConfig, prefix: str, content: Mapping[str, Any]) -> Problems:
    """Set the keys of a file in ``tree``, each with ``prefix`` in front. Yields what is wrong with them."""
    names = [key.removeprefix(prefix) for key in declared(tree) if key.startswith(prefix)]
    for name, value in (
        (str(name), value) for name, value in content.items()
    ):  # YAML reads 1, yes and null as no texts
        key = f"{prefix}{name}"
        if key in SECTIONS and isinstance(value, dict):
            yield from _fill(tree, f"{key}.", value)
        elif name not in (DEFAULTS, KIND):
            if name.split(".")[0] in [known.split(".")[0] for known in names]:
                yield from set_key(tree, key, value, to_text(value))
            else:
                yield key, unknown_key(name, names)


def _blank_tree(kind: str) -> DictConfig:
    """A tree of defaults, for a cluster of that ``kind``."""
    tree: DictConfig = OmegaConf.structured(Tree(cluster=KINDS[kind]()))
    return tree
