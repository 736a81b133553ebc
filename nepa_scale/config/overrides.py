"""The command grammar: ``key=value`` words, a configuration file, and the flags that launchers add."""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Collection, Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nepa_scale.config import data_facts, recipes
from nepa_scale.config.registry import TASKS, plugged_in, spec
from nepa_scale.config.schema import ModelConfig, RunConfig, walk
from nepa_scale.config.sizes import SHIPPED, own_sizes
from nepa_scale.config.validate import LABEL_KEY, LIST_KEY, START_KEYS, SUBSET_KEYS, check_values
from nepa_scale.data import layout
from nepa_scale.data.info import DEFAULT_ROOT
from nepa_scale.utils import yaml_files
from nepa_scale.utils.arguments import documented_fields, help_line, help_page, limits, spelled
from nepa_scale.utils.cli import out_of_range, split_words, to_text
from nepa_scale.utils.errors import ConfigError, DataError, nearest
from nepa_scale.utils.files import expand_home, write_atomically

KEYS = {key: meta for key, _, meta in walk(RunConfig())}
RECIPE_KEYS = tuple(f"{task}.recipe" for task in TASKS)
SHAPE_KEYS = ("model.embed_dim", "model.depth", "model.num_heads")
SHORTHANDS = ("data", "model", *(f"data.{key}" for key in SUBSET_KEYS))
MAPPINGS = ("milestones", "stated")  # settings whose one value is a mapping, which files may write as such
LISTS = ("log.trackers",)  # the same of a list
NOT_HERE = dict.fromkeys(("model.in_chans", "in_chans"), "images of every kind are read as 3 channels, RGB")
ONE_VALUE = "expected one value, found a list"
SECTIONS = sorted({key.split(".")[0] for key in KEYS if "." in key})
ALTERNATIVES = (("epochs", "steps"), (*SUBSET_KEYS, LABEL_KEY, LIST_KEY), START_KEYS)
EXCLUSIVE = tuple(pair for keys in ALTERNATIVES for pair in permutations(keys, 2))

Pairs = list[tuple[str, str]]  # settings, as (dotted key, text)
_reading = threading.Lock()


def parse(words: Sequence[str]) -> RunConfig:
    """Build a checked configuration from ``key=value`` words.

    Raises:
        ConfigError: with every problem found, one line each.
    """
    return build(read_words(words))


def read_words(words: Sequence[str]) -> Pairs:
    """The settings of a command line, ``config=`` first. Raises ``ConfigError`` naming words that are no settings."""
    pairs = split_words(spell(words))
    return sorted(pairs, key=lambda pair: pair[0] != "config")


def spell(words: Sequence[str]) -> list[str]:
    """A command line as ``key=value`` words alone."""
    return spelled(strip_launcher_flags(words), switches())


@functools.cache
def switches() -> list[str]:
    """The settings that need no value where they are typed as flags."""
    return ["json", *(key for key in KEYS if _kind(key).startswith("bool"))]


def strip_launcher_flags(words: Sequence[str]) -> list[str]:
    """Drop what DeepSpeed's and torch's launchers append; turn ``--deepspeed_config F`` into a setting."""
    kept: list[str] = []
    remaining = iter(words)
    for word in remaining:
        flag, _, value = word.partition("=")
        if flag in ("--local_rank", "--local-rank"):
            if not value:
                next(remaining, None)
        elif flag == "--deepspeed_config":
            kept.append(f"engine.ds_config={value or next(remaining, '')}")
        elif flag != "--deepspeed":
            kept.append(word)
    return kept


def build(pairs: Sequence[tuple[str, str]], *, tasks: Sequence[str] | None = None) -> RunConfig:
    """Apply (key, value) pairs in order to the defaults, then check them.

    ``tasks`` are those whose sections are checked; by default the one to do now.
    Raises ``ConfigError`` with every problem found.
    """
    problems: list[str] = []
    return build_read(with_files(pairs, problems), problems, tasks=tasks)


def build_read(
    given: Sequence[tuple[str, str]],
    problems: list[str],
    *,
    tasks: Sequence[str] | None = None,
    recorded: Sequence[tuple[str, str]] = (),
    begun: Collection[str] = (),
) -> RunConfig:
    """What ``build`` does with pairs whose files ``with_files`` has read, finding ``problems``.

    Args:
        tasks: those whose sections are checked; by default the one to do now.
        recorded: settings that count where neither pairs nor recipes say another thing.
        begun: tasks whose data set ``data=`` leaves as it is, unless they are the one to do now.

    Raises:
        ConfigError: with every problem found.
    """
    pairs = overlay(recorded, _expand(given, recorded, begun, problems))
    values: dict[str, dict[str, Any]] = {"": {}}
    for key, text in pairs:
        value, wrong = _value_of(key, text)
        problems += wrong
        if not wrong:
            section, _, name = key.rpartition(".")
            values.setdefault(section, {})[name] = value
    config = _with_values(values)
    _replace_default_epochs(config, {key for key, _ in pairs})
    _state_own_shape(config.model)
    problems += check_values(config, (config.task,) if tasks is None else tuple(t for t in config.tasks if t in tasks))
    if problems:
        raise ConfigError(problems)
    return config


def pairs_from_mapping(mapping: Any, source: str) -> list[tuple[str, str]]:
    """Nested settings as (dotted key, text) pairs. Raises ``ConfigError`` naming ``source`` with every problem."""
    if not isinstance(mapping, dict):
        raise ConfigError([f"{source}: expected settings (key: value), found {type(mapping).__name__}"])
    flat = flatten(mapping)
    problems = [
        f"{source}: {key}: {ONE_VALUE}" for key, value in flat.items() if isinstance(value, list) and key not in LISTS
    ]
    if problems:
        raise ConfigError(problems)
    return [(key, expand_home(_word(value))) for key, value in flat.items()]


def _word(value: Any) -> str:
    """A value of a file as it is typed."""
    return f"[{','.join(map(to_text, value))}]" if isinstance(value, list) else to_text(value)


def flatten(mapping: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted key: value}; a list, and a mapping that one setting holds, is a value."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict) and str(key).rsplit(".", 1)[-1] not in MAPPINGS:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def setting_problems(key: str, value: Any) -> list[str]:
    """What is wrong with one setting of a run by itself: its key, its type or its range."""
    if key in (*SHORTHANDS, *RECIPE_KEYS):
        return []
    if isinstance(value, list) and key not in LISTS:
        return [f"{key}: {ONE_VALUE}"]
    found, problems = _value_of(key, _word(value))
    return list(problems) or out_of_range(key, found, KEYS[key])


def key_problems(key: str) -> list[str]:
    """What is wrong with the key of a setting whose value is not known yet."""
    return [] if key in (*KEYS, *SHORTHANDS, *RECIPE_KEYS) else [unknown_key(key)]


def save(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration as YAML that ``load`` turns into an equal object.

    Sections of plugins' tasks that say nothing but defaults are left out: it is read where a plugin is missing, too.
    """
    content = dataclasses.asdict(config)
    for task in plugged_in():
        if config.task_config(task.name) == task.section() and config.task != task.name:
            del content[task.name]
    write_atomically(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def load(path: Path) -> RunConfig:
    """Read a configuration written by ``save``. Raises ``ConfigError`` naming the file."""
    return build(read_pairs(path))


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The settings of a YAML file as (dotted key, text) pairs.

    Raises ``ConfigError`` with every mistake in the file and its line.
    """
    source = f"config={path}"
    return pairs_from_mapping(yaml_files.read(path, content_problems, source), source)


def content_problems(content: dict[str, Any]) -> list[tuple[str, str]]:
    """(key, problem) of every setting in a file that is wrong by itself.

    A size whose shape stands beside it need not be on the ladder: runs record that of sizes of a user's folder.
    """
    flat = flatten(content)
    if all(flat.get(key) is not None for key in SHAPE_KEYS):
        flat.pop("model.size", None)
    return [(key, line) for key, value in flat.items() for line in setting_problems(key, value)]


def help_text() -> str:
    """What ``train.py --help`` prints: the tree of keys with defaults, limits and meaning."""
    lines = [help_line(f"{key}=NAME", f"recipe: {', '.join(_recipe_names(key)) or 'none'}") for key in RECIPE_KEYS]
    documented = _documentation()
    for key, default, meta in walk(RunConfig()):
        mark = "*" if meta["orchestration"] else " "
        lines.append(help_line(f"{key}={to_text(default)}", documented[key] + limits(meta), mark))
    return help_page(
        "deepspeed nepa_scale/train.py key=value ...    (installed: nepa-train)",
        "A run_dir that holds a config.yaml gives its settings, config=FILE those of a YAML file; what is typed wins. "
        "data=NAME is short for the dataset of every task that can read it, data.num_images=N and data.fraction=F for "
        "how much of it this task uses, model=NAME for model.size, init=DIR of task=pretrain for pretrain.init. Keys "
        "marked * change how the work is done but not its result. dry_run=true needs no launcher: python "
        "nepa_scale/train.py answers sooner than deepspeed; with json=true it prints one JSON document and nothing "
        "else.",
        lines,
        "nepa-train task=pretrain model.size=micro data=digits run_dir=runs/mine dry_run=true",
        "deepspeed --num_gpus 2 nepa_scale/train.py task=pretrain engine.ds_config=zero2",
    )


@functools.lru_cache(maxsize=10_000)
def _value_of(key: str, text: str) -> tuple[Any, tuple[str, ...]]:
    """The value of a setting's text in its field's type, and what is wrong with the key or the text.

    The runs of a plan share most of their settings, so each text is read once.
    """
    if key not in KEYS:
        return None, (unknown_key(key),)
    if "${" in text or text == "???":  # OmegaConf's marks of a reference and of a missing value
        return None, (f"{key}={text}: references are not supported; write the value itself",)
    with _reading:
        try:
            OmegaConf.update(_typed_tree(), key, None if text in ("null", "None") else text)
            return OmegaConf.select(_typed_tree(), key), ()
        except (OmegaConfBaseException, ValueError, OverflowError):
            square = "; inputs are square" if key.endswith(".image_size") else ""
            return None, (f"{key}={text}: expected {_described(_kind(key))}{square}",)


def _with_values(values: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """The defaults with ``values``: {section, "" for settings outside of any: {name: value}}."""
    default = RunConfig()
    sections = {name: dataclasses.replace(getattr(default, name), **values[name]) for name in values if name}
    return dataclasses.replace(default, **sections, **values[""])


@functools.cache
def _typed_tree() -> DictConfig:
    """A tree of the fields' types, to read values with."""
    tree: DictConfig = OmegaConf.structured(RunConfig)
    return tree


def with_files(pairs: Sequence[tuple[str, str]], problems: list[str]) -> Pairs:
    """The pairs, with the settings of each ``config=`` file in its place; what follows it is stronger."""
    weaker: Pairs = []
    layer: Pairs = []
    for key, value in pairs:
        if key == "config":
            weaker, layer = overlay(weaker, layer), []
            try:
                weaker = overlay(weaker, read_pairs(Path(value)))
            except ConfigError as error:
                problems += error.problems
        else:
            layer.append((key, value))
    return overlay(weaker, layer)


def overlay(weak: Sequence[tuple[str, str]], strong: Sequence[tuple[str, str]]) -> Pairs:
    """The settings of two sources in order, where ``strong`` replaces what it excludes: steps a length in epochs, a
    fraction a number of images or of labels per class, a number of blocks to start from a fraction of them, and the
    other way round. Its ``data`` stands before the data sets of single tasks, and its size takes the place of the shape
    that a size of a user's folder has in ``weak``."""
    given = {key for key, value in strong if value != "null"}
    replaced = excluded(given)
    recorded = dict(weak)
    if (
        given & {"model", "model.size"}
        and recorded.get("model.size", "nano") not in SHIPPED
        and all(recorded.get(key, "null") != "null" for key in SHAPE_KEYS)
    ):
        replaced |= set(SHAPE_KEYS)
    return [pair for pair in weak if pair[0] not in replaced] + sorted(strong, key=lambda pair: pair[0] != "data")


def excluded(given: Collection[str]) -> set[str]:
    """The settings that a run cannot have beside those ``given``."""
    return {f"{task}.{a}" for task in TASKS for a, b in EXCLUSIVE if f"{task}.{b}" in given}


def _expand(
    given: Sequence[tuple[str, str]],
    recorded: Sequence[tuple[str, str]],
    begun: Collection[str],
    problems: list[str],
) -> Pairs:
    """Resolve the shorthands and the recipes."""
    given = [(key, _inline(value, problems) if key == data_facts.KEY else value) for key, value in given]
    values = dict([*recorded, *given])
    task = dict(given).get("task", "pretrain")
    task = task if task in TASKS else "pretrain"
    short = {"model": ["model.size"]} | {f"data.{key}": [f"{task}.{key}"] for key in SUBSET_KEYS}
    if not spec(task).downstream and dict(given).get("init") not in (None, "pretrain", "scratch"):
        short["init"] = ["pretrain.init"]
    if "data" in values:
        takers = _takers(Path(values.get("data.root", DEFAULT_ROOT)), values["data"], values.get(data_facts.KEY))
        short["data"] = [f"{each}.dataset" for each in TASKS if each == task or (each in takers and each not in begun)]
    expanded = [(full, value) for key, value in given for full in short.get(key, [key])]
    return _expand_recipes(expanded, values.get("model.size"), problems)


def _inline(value: str, problems: list[str]) -> str:
    """Facts about data sets as a mapping: what is in the file that ``value`` names, which a run need not keep."""
    try:
        return value if value == "null" else str(data_facts.read(value))
    except ConfigError as error:
        problems += error.problems
        return "null"


def _takers(root: Path, name: str, facts: str | None) -> tuple[str, ...]:
    """The tasks that can read a data set; all of them where it cannot be told, which is an error later."""
    try:
        info = data_facts.info_of(root, name, None if facts == "null" else facts)
    except (DataError, ConfigError):
        return TASKS
    return tuple(task for task in TASKS if not layout.missing_needs(info, spec(task).needs))


def _expand_recipes(pairs: Pairs, size: str | None, problems: list[str]) -> Pairs:
    """Put the settings of the last recipe named for each task before all pairs, which are stronger.

    What a recipe says for a size follows the size that pairs or recipes choose, or else ``size``; a length given in
    steps replaces the recipe's epochs, and the other way round.
    """
    chosen = {key.split(".")[0]: value for key, value in pairs if key in RECIPE_KEYS and value != "null"}
    rest = [pair for pair in pairs if pair[0] not in RECIPE_KEYS]
    recipe_pairs: Pairs = []
    for task in (task for task in TASKS if task in chosen):
        try:
            size = dict([*recipe_pairs, *rest]).get("model.size", size)
            recipe_pairs += pairs_from_mapping(
                recipes.settings(task, chosen[task], size, content_problems), f"{task}.recipe={chosen[task]}"
            )
        except ConfigError as error:
            problems += error.problems
    return overlay(recipe_pairs, rest)


def _replace_default_epochs(config: RunConfig, given: Collection[str]) -> None:
    """Let ``steps`` take the place of the default ``epochs``; epochs that were given stay, to be complained about."""
    for task in TASKS:
        section = config.task_config(task)
        if section.steps is not None and f"{task}.epochs" not in given:
            section.epochs = None


def _state_own_shape(model: ModelConfig) -> None:
    """Put the shape of a size of the user's folder into the settings: it is part of the run and stays as it is now."""
    if model.size in own_sizes():
        model.embed_dim, model.depth, model.num_heads = model.shape()[:3]


def _recipe_names(key: str) -> list[str]:
    return recipes.names(key.removesuffix(".recipe"))


def unknown_key(key: str) -> str:
    """The complaint about a key that does not exist, with the nearest that does."""
    if key in NOT_HERE:
        return f"unknown key '{key}': {NOT_HERE[key]}"
    if key in SECTIONS:
        return f"{key}: a group of settings, not one; its keys: {', '.join(k for k in KEYS if k.startswith(key + '.'))}"
    leaf = key.rsplit(".", 1)[-1]
    by_leaf = [name for name in KEYS if name.rsplit(".", 1)[-1] == leaf]
    valid = (*KEYS, *RECIPE_KEYS)
    whole = nearest(key, valid) if "." in key else ""
    hint = f"; did you mean '{by_leaf[0]}'?" if by_leaf else whole or _nearest_leaf(leaf, valid)
    return f"unknown key '{key}'{hint}"


def _nearest_leaf(leaf: str, valid: Sequence[str]) -> str:
    leaves = {name.rsplit(".", 1)[-1]: name for name in reversed(valid)}
    match = nearest(leaf, leaves)
    return match.replace(match.split("'")[1], leaves[match.split("'")[1]]) if match else "; --help lists all keys"


def _kind(key: str) -> str:
    """The declared type of a setting's field."""
    section: Any = RunConfig
    *parents, leaf = key.split(".")
    for parent in parents:
        section = type(getattr(section(), parent))
    return str(section.__dataclass_fields__[leaf].type)


def _described(kind: str) -> str:
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
    base = kind.removesuffix(" | None")
    return names.get(base, base) + (" or null" if base != kind else "")


def _documentation() -> dict[str, str]:
    """The docstring under each field, by dotted key."""
    default = RunConfig()
    sections = [("", RunConfig), *((f"{name}.", type(getattr(default, name))) for name in SECTIONS)]
    return {f"{prefix}{name}": text for prefix, kind in sections for name, text in documented_fields(kind).items()}
