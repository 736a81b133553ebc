"""The keys of a launch, and the files of ``conf/`` and of the user's folder that set them.

Files are checked, with the line of each mistake, and composed. A key is set to a value of a file or to a typed one, and
what is wrong with it is said.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nepa_scale.config import overrides
from nepa_scale.utils import user_folder, yaml_files
from nepa_scale.utils.cli import out_of_range, to_text
from nepa_scale.utils.errors import ConfigError, nearest
from sweeps.settings.schema import GROUPS, KINDS, SUBSETS, Tree

SECTIONS = (*GROUPS, "budget")
SETTINGS_KEYS = ("grid.axes", "grid.zip", "grid.tuned", "grid.set", "study.tuned", "study.run")
"""Keys that hold settings of runs."""
LISTS_KEYS = ("grid.axes", "grid.zip", "grid.tuned", "study.tuned")
"""Those of them whose settings have lists of values."""
POINTS_KEY = "grid.points"
MAPPING_KEYS = ("cluster.sbatch", "cluster.env")
"""Keys that hold options of Slurm or variables of the shell; each of these can be typed by itself."""
SHELL_KEYS = (*MAPPING_KEYS, "cluster.setup", "cluster.srun_args", "cluster.python")
"""Keys whose values the shell reads: ${HOME} is a variable of the shell, not a reference to another key."""
NO_TEXT = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories that are not allowed in a name: controls, surrogates, line and paragraph separators."""
NAME_RULE = "the name of a point is one line of text, without space around it"
KIND_TEXTS = {
    "bool": "true or false",
    "bool | None": "true or false",
    "int": "a whole number",
    "int | None": "a whole number or null",
    "float": "a number",
    "float | None": "a number or null",
    "list[str]": "a list of names: [a,b]",
    "dict[str, Any]": "names with their values: {NAME: VALUE}",
    "list[int]": "a list of whole numbers: [1,2]",
    "list[float]": "a list of numbers: [1,2.5]",
}

Problems = Iterator[tuple[str, str]]
"""(key, what is wrong with it)."""

CONF = Path(__file__).resolve().parents[1] / "conf"
MAIN = "config"
DEFAULTS = "defaults"  # Hydra's key for the files that a file builds on
KIND = "kind"  # of a cluster: which keys it has


def declared(tree: DictConfig) -> dict[str, Field[Any]]:
    """The field of every key that takes a value, by key; ``tree`` says of which kind the cluster is."""
    sections = {name: fields(OmegaConf.get_type(tree, name) or object) for name in SECTIONS}  # type: ignore[arg-type]
    keys = {f"{name}.{item.name}": item for name, items in sections.items() for item in items}
    keys |= {item.name: item for item in fields(Tree) if item.name not in SECTIONS}
    return {key: item for key, item in keys.items() if key != "cluster.kind"}


def set_key(tree: DictConfig, key: str, value: Any, text: str) -> Problems:
    """Set ``key`` to ``value``, written as ``text``, and yield what is wrong with it."""
    path = next((path for path in SETTINGS_KEYS if f"{key}.".startswith(f"{path}.")), None)
    if path is not None:
        yield from _set_settings(tree, path, key.removeprefix(path)[1:], value, text)
    elif f"{key}.".startswith(f"{POINTS_KEY}."):
        yield from _set_points(tree, key.removeprefix(POINTS_KEY)[1:], value, text)
    elif (path := next((path for path in MAPPING_KEYS if key.startswith(f"{path}.")), None)) is not None:
        yield from set_key(tree, path, {key.removeprefix(path)[1:]: value}, text)
    elif key in (known := declared(tree)):
        yield from _set_value(tree, key, value, text, known[key])
    else:
        yield key, unknown_key(key, known)


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message about a key that does not exist, with the nearest of the ``known`` ones."""
    section = ".".join(key.split(".")[:2])
    return f"unknown key '{key}'{nearest(key, known) or nearest(section, known) or '; --help lists all keys'}"


def range_problems(tree: DictConfig) -> list[str]:
    """What is out of range in a composed ``tree``, with references between keys resolved."""
    known = declared(tree)
    simple = [key for key in known if key not in (*SETTINGS_KEYS, POINTS_KEY, *MAPPING_KEYS)]
    return [line for key in simple for line in out_of_range(key, plain(tree, key, resolve=True), known[key].metadata)]


def plain(tree: DictConfig, key: str, *, resolve: bool = False) -> Any:
    """The value of ``key`` without OmegaConf's types."""
    value = OmegaConf.select(tree, key)
    return OmegaConf.to_container(value, resolve=resolve) if OmegaConf.is_config(value) else value


def _set_value(tree: DictConfig, key: str, value: Any, text: str, item: Field[Any]) -> Problems:
    if key in SHELL_KEYS:
        value = _literal(value)
    try:
        OmegaConf.update(tree, key, value, merge=value != {})  # {} takes away the options of a cluster's file
    except (OmegaConfBaseException, ValueError, OverflowError):
        yield key, f"{key}={text}: expected {KIND_TEXTS.get(str(item.type), 'a text')}"
    else:
        references = [] if key in SHELL_KEYS else _references(value)
        checked = [] if references or key in MAPPING_KEYS else out_of_range(key, plain(tree, key), item.metadata)
        yield from ((key, line) for line in (*_unknown_references(tree, references), *checked))


def _literal(value: Any) -> Any:
    """``value`` with its texts escaped, so that OmegaConf resolves no references in them."""
    if isinstance(value, dict):
        return {str(name): _literal(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _set_settings(tree: DictConfig, path: str, name: str, value: Any, text: str) -> Problems:
    """Set the run setting ``name`` of ``path``, or all of ``path`` where ``name`` is empty."""
    given = {name: value} if name else value or {}
    if not isinstance(given, dict):
        values = "[...]" if path in LISTS_KEYS else "..."
        yield path, f"{path}={text}: expected settings with their values: {{SETTING: {values}}}"
        return
    flat = overrides.flatten(given)
    OmegaConf.update(tree, path, {**(plain(tree, path) if name else {}), **flat}, merge=False)
    yield from _setting_problems(tree, path, flat)


def _set_points(tree: DictConfig, name: str, value: Any, text: str) -> Problems:
    """Set all named points; or the point called ``name``; or, where a setting follows the point's name, that one."""
    label, _, setting = name.partition(".")
    given = {label: {setting: value} if setting else value} if name else value or {}
    if not isinstance(given, dict) or not all(isinstance(settings or {}, dict) for settings in given.values()):
        key, expected = (f"{POINTS_KEY}.{name}", "{SETTING: ...}") if name else (POINTS_KEY, "{NAME: {SETTING: ...}}")
        yield POINTS_KEY, f"{key}={text}: expected settings with their values: {expected}"
        return
    points = {str(point): overrides.flatten(settings or {}) for point, settings in given.items()}
    yield from ((POINTS_KEY, f"{POINTS_KEY}: {point!a}: {NAME_RULE}") for point in points if not _is_name(point))
    if len(points) < len(given):
        twice = Counter(map(str, given)).most_common(1)[0][0]
        yield POINTS_KEY, f"{POINTS_KEY}: '{twice}' stands twice"
    there = plain(tree, POINTS_KEY) if name else {}
    if setting:
        points[label] = {**there.get(label, {}), **points[label]}
    OmegaConf.update(tree, POINTS_KEY, {**there, **points}, merge=False)
    for point, settings in points.items():
        yield from _setting_problems(tree, f"{POINTS_KEY}.{point}", settings)


def _is_name(text: str) -> bool:
    """Whether ``text`` can name a point wherever runs are listed."""
    return text == text.strip() != "" and not any(unicodedata.category(character) in NO_TEXT for character in text)


def _setting_problems(tree: DictConfig, path: str, settings: Mapping[str, Any]) -> Problems:
    """What is wrong with single run settings below ``path``."""
    for key, value in settings.items():
        if key in SUBSETS:
            yield f"{path}.{key}", f"{path}.{key}: {SUBSETS[key]}"
        listed = path in LISTS_KEYS or (key == "seed" and path.startswith(POINTS_KEY))
        values = value if isinstance(value, list) and listed else [value]
        for item in values:
            references = _references(item)
            checked = overrides.key_problems(key) if references else overrides.setting_problems(key, item)
            yield from ((f"{path}.{key}", line) for line in (*_unknown_references(tree, references), *checked))


def _references(value: Any) -> list[str]:
    """The keys that a value refers to, as ``${study.sizes}`` does; they are resolved once all keys are set."""
    return re.findall(r"\$\{([^}]*)", str(value))


def _unknown_references(tree: DictConfig, references: Iterable[str]) -> list[str]:
    """A message for each reference to a key that no launch has. Those of a cluster depend on its kind."""
    known = declared(tree)
    checked = [key for key in references if ":" not in key and not key.startswith(("cluster.", *SETTINGS_KEYS))]
    return [f"${{{key}}}: {unknown_key(key, known)}" for key in checked if key not in known]


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
