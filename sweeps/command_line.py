"""Understanding a launch's command line: Hydra composes the chosen files of ``conf/``, typed words overlay them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from nepa_scale.config import TASKS
from nepa_scale.errors import ConfigError, nearest
from nepa_scale.overrides import split_words
from sweeps.settings import GROUPS, KINDS, BudgetSettings, Cluster, ClusterSettings, Launch, Tree, describe

CONF = Path(__file__).resolve().parent / "conf"
LAUNCH_KEYS = tuple(item.name for item in fields(Tree))
CHOICES = {
    "only": ("all", "failed", "missing"),
    "unfit": ("refuse", "drop"),
    "budget.over": ("refuse", "trim"),
}
SECTIONS = (*GROUPS, "budget")
OPEN_KEYS = ("grid.axes", "grid.zip", "grid.set", "study.run")
RULES = ("isoflop",)
KIND_TEXTS = {
    "bool": "true or false",
    "bool | None": "true or false",
    "int": "a whole number",
    "int | None": "a whole number or null",
    "float": "a number",
    "float | None": "a number or null",
    "list[str]": "a list of names: [a,b]",
    "list[int]": "a list of whole numbers: [1,2]",
    "list[float]": "a list of numbers: [1,2.5]",
}


def read_launch(words: Sequence[str]) -> Launch:
    """Understand the command line. Raises ``ConfigError`` with every problem found."""
    pairs = split_words("dry_run=true" if word == "--dry-run" else word for word in words)
    mine = [pair for pair in pairs if pair[0].split(".")[0] in LAUNCH_KEYS]
    tree, choices = compose_tree([pair for pair in mine if pair[0] in GROUPS])
    problems = [problem for key, text in mine if key not in GROUPS for problem in _apply(tree, key, text)]
    if problems:
        raise ConfigError(problems)
    try:
        root: Tree = OmegaConf.to_object(tree)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError([_first_line(error)]) from error
    _check_choices({"only": root.only, "unfit": root.unfit, "budget.over": root.budget.over})
    if root.predict_from is not None and not root.predict:
        raise ConfigError([f"predict_from={root.predict_from}: give predict=true, too"])
    _check_ranges(root.cluster)
    _check_budget(root.budget)
    _check_tasks(root.study.tasks)
    typed = tuple(pair for pair in pairs if pair not in mine)
    _check_grid(root, choices["grid"], typed)
    if root.seeds is not None:
        root.grid.axes["seed"] = list(range(root.seeds))
    return Launch(
        grid_name=choices["grid"],
        grid=root.grid,
        study=root.study,
        cluster=cast(Cluster, root.cluster),
        study_dir=Path(root.study_dir or f"studies/{root.study.name}-{choices['grid']}"),
        dry_run=root.dry_run,
        pairs=typed,
        branch=root.branch,
        calibrate=root.calibrate,
        predict=root.predict,
        predict_from=None if root.predict_from is None else Path(root.predict_from),
        optimum_from=None if root.optimum_from is None else Path(root.optimum_from),
        unfit=root.unfit,
        budget=root.budget,
        only=root.only,
        watch=root.watch,
    )


def compose_tree(choices: Sequence[tuple[str, str]]) -> tuple[DictConfig, dict[str, str]]:
    """The YAML files of the chosen options under the types above, and the option in use of every group.

    Open mappings (``OPEN_KEYS``) become flat: {dotted key: value}. Raises ``ConfigError``.
    """
    problems = [
        f"{group}={name}: no such {group}{nearest(name, valid)} (there are: {', '.join(valid)})"
        for group, name in choices
        if name not in (valid := options(group))
    ]
    if problems:
        raise ConfigError(problems)
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("config", [f"{group}={name}" for group, name in choices], return_hydra_config=True)
    used = {group: str(composed.hydra.runtime.choices[group]) for group in GROUPS}
    content: Any = OmegaConf.to_container(composed)
    del content["hydra"]
    for path in OPEN_KEYS:
        group, key = path.split(".")
        content[group][key] = flatten(content[group].get(key) or {})
    points = content["grid"].get("points") or {}
    content["grid"]["points"] = {label: flatten(values or {}) for label, values in points.items()}
    kind = content["cluster"].get("kind")
    if kind not in KINDS:
        raise ConfigError([f"cluster.kind={kind}: not one of {', '.join(KINDS)}"])
    try:
        tree: Any = OmegaConf.merge(OmegaConf.structured(Tree(cluster=KINDS[kind]())), content)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{CONF}: {error.full_key}: {_first_line(error)}"]) from error
    return tree, used


def options(group: str) -> list[str]:
    """The names that ``group=NAME`` accepts."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def flatten(mapping: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as {dotted key: value}; lists are values."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _apply(tree: DictConfig, key: str, text: str) -> list[str]:
    """Set one key of the tree from the command line; returns what is wrong with it."""
    parent = next((path for path in OPEN_KEYS if key.startswith(f"{path}.")), None)
    kinds = _kinds(tree)
    if parent is None and key not in kinds:
        return [f"unknown key '{key}'{nearest(key, kinds) or '; --help lists all keys'}"]
    try:
        if parent is not None:
            OmegaConf.select(tree, parent)[key.removeprefix(f"{parent}.")] = _parse(text)
        else:
            plain = text if kinds[key].startswith("str") and text != "null" else _parse(text)
            OmegaConf.update(tree, key, plain)
    except (OmegaConfBaseException, YAMLError, ValueError):
        return [f"{key}={text}: expected {KIND_TEXTS.get(kinds.get(key, ''), 'a value or a list of values')}"]
    return []


def _parse(text: str) -> Any:
    """The value of a word, read as YAML: numbers, true, null, [lists]."""
    return OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]  # type: ignore[index, call-overload]


def _kinds(tree: DictConfig) -> dict[str, str]:
    """{key: annotated type} of every key that takes one value."""
    sections = {name: fields(OmegaConf.get_type(tree, name) or object) for name in SECTIONS}  # type: ignore[arg-type]
    kinds = {f"{name}.{item.name}": str(item.type) for name, items in sections.items() for item in items}
    kinds |= {item.name: str(item.type) for item in fields(Tree) if item.name not in SECTIONS}
    return {key: kind for key, kind in kinds.items() if key not in (*OPEN_KEYS, "grid.points", "cluster.kind")}


def _check_choices(given: dict[str, str]) -> None:
    problems = [
        f"{key}={value}: not one of {', '.join(CHOICES[key])}{nearest(value, CHOICES[key])}"
        for key, value in given.items()
        if value not in CHOICES[key]
    ]
    if problems:
        raise ConfigError(problems)


def _check_budget(budget: BudgetSettings) -> None:
    limits = {"budget.device_hours": budget.device_hours, "budget.flops": budget.flops}
    problems = [
        f"{key}={limit}: must be greater than 0" for key, limit in limits.items() if limit is not None and limit <= 0
    ]
    if problems:
        raise ConfigError(problems)


def _check_ranges(cluster: ClusterSettings) -> None:
    numbers = {key: value for key, value, _ in describe(cluster, "cluster") if isinstance(value, int | float)}
    may_be_zero = {"cluster.startup_seconds", "cluster.gpus_per_node", "cluster.max_requeues"}
    problems = [
        f"{key}={value}: must be {'at least' if key in may_be_zero else 'greater than'} 0"
        for key, value in numbers.items()
        if value < 0 or (value == 0 and key not in may_be_zero)
    ]
    if cluster.mfu is not None and cluster.mfu > 1:
        problems.append(f"cluster.mfu={cluster.mfu}: at most 1, a fraction of the peak")
    if problems:
        raise ConfigError(problems)


def _check_grid(tree: Tree, name: str, typed: Sequence[tuple[str, str]]) -> None:
    """Raises ``ConfigError`` where the ways to declare a grid, or its seeds, contradict one another."""
    grid, problems = tree.grid, []
    if grid.rule is not None and grid.rule not in RULES:
        problems.append(f"grid.rule={grid.rule}: not one of {', '.join(RULES)}{nearest(grid.rule, RULES)}")
    if tree.seeds is not None:
        if tree.seeds < 1:
            problems.append(f"seeds={tree.seeds}: must be at least 1")
        if "seed" in {**grid.axes, **grid.zip}:
            problems.append(f"seeds={tree.seeds}: grid={name} varies seed itself; leave out one of the two")
        if any(key == "seed" for key, _ in typed):
            problems.append(f"seeds={tree.seeds}: seed=N is given too; leave out one of the two")
    lengths = {key: len(values) if isinstance(values, list) else 1 for key, values in grid.zip.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        problems.append(f"grid.zip: settings that vary together need equally many values: {counts}")
    if tree.optimum_from is not None and grid.rule != "isoflop":
        problems.append(f"optimum_from={tree.optimum_from}: for grids of equal compute alone; give grid=isoflop, too")
    problems += [f"grid.axes.{key}: in grid.zip too; leave out one of the two" for key in grid.zip if key in grid.axes]
    if problems:
        raise ConfigError(problems)


def _check_tasks(tasks: Sequence[str]) -> None:
    problems = [
        f"study.tasks: '{task}' is not one of {', '.join(TASKS)}{nearest(task, TASKS)}"
        for task in tasks
        if task not in TASKS
    ]
    if problems or not tasks:
        raise ConfigError(problems or [f"study.tasks: no task; give some of {', '.join(TASKS)}"])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
