"""A launch's command line and its help: Hydra composes the chosen files of ``conf/``, typed words overlay them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from nepa_scale.config import overrides
from nepa_scale.config.registry import TASKS
from nepa_scale.utils import cli
from nepa_scale.utils.arguments import help_line, help_page, limits, spelled
from nepa_scale.utils.cli import to_text
from nepa_scale.utils.errors import ConfigError, nearest
from sweeps.settings import sbatch_options
from sweeps.settings.conf_files import (
    KIND_TEXTS,
    LISTS_KEYS,
    MAPPING_KEYS,
    POINTS_KEY,
    compose_tree,
    declared,
    options,
    range_problems,
    set_key,
    unknown_key,
)
from sweeps.settings.schema import GROUPS, LENGTHS, RESERVED, Launch, SlurmSettings, Tree, is_launch_key, listed

Pairs = Sequence[tuple[str, str]]
SWITCHES = [*(item.name for item in fields(Tree) if str(item.type).startswith("bool")), *overrides.switches()]
"""Keys that need no value where they are typed as flags."""
RENAMED = {"unfit": ("infeasible", {"refuse": "error", "drop": "skip"})}
"""{key of an earlier version: today's, {value then: value now}}."""


def read_launch(words: Sequence[str]) -> Launch:
    """Understand the command line. Raises ``ConfigError`` with every problem found."""
    pairs = [_by_new_name(*pair) for pair in cli.split_words(spelled(words, SWITCHES))]
    tree, choices = compose_tree({key: name for key, name in pairs if key in GROUPS})
    mine = [pair for pair in pairs if is_launch_key(pair[0])]
    others = sorted((pair for pair in pairs if pair not in mine), key=lambda pair: pair[0] != "config")
    problems = [line for key, text in mine if key not in GROUPS for line in _apply(tree, key, text)]
    problems += [line for key, text in others for line in _setting_problems(tree, key, text)]
    typed = tuple(overrides.with_files(others, problems))
    if problems:
        raise ConfigError(problems)
    try:
        root: Tree = OmegaConf.to_object(tree)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key}: {str(error).splitlines()[0]}"]) from error
    problems = [*range_problems(tree), *_contradictions(root, choices["grid"], typed)]
    if problems:
        raise ConfigError(problems)
    if root.seeds is not None:
        root.grid.axes["seed"] = list(range(root.seeds))
    own: dict[str, Any] = {
        "grid_name": choices["grid"],
        "study_dir": Path(root.study_dir or f"studies/{root.study.name}-{choices['grid']}"),
        "predict_from": None if root.predict_from is None else Path(root.predict_from),
        "optimum_from": None if root.optimum_from is None else Path(root.optimum_from),
        "pairs": typed,
    }
    return Launch(**{item.name: getattr(root, item.name) for item in fields(Launch) if item.name not in own}, **own)


def _by_new_name(key: str, text: str) -> tuple[str, str]:
    """The pair under the names that hold today; a line on standard error where it has others."""
    if key not in RENAMED:
        return key, text
    name, values = RENAMED[key]
    print(f"note: {key}={text} is now {name}={values.get(text, text)}", file=sys.stderr)
    return name, values.get(text, text)


def _apply(tree: DictConfig, key: str, text: str) -> list[str]:
    """Set one key of the tree from the command line; returns what is wrong with it."""
    item = declared(tree).get(key)
    kind = "" if item is None else str(item.type)
    try:
        value = text if kind.startswith("str") and text != "null" else _parse(text)
    except (OmegaConfBaseException, YAMLError, ValueError, RecursionError) as error:
        return [f"{key}={text}: expected {KIND_TEXTS.get(kind, 'a value or a list of values')}{_reason(error)}"]
    if value is None and text != "null":
        return [f"{key}={text} is empty; give a value or leave the key out"]
    return [problem for _, problem in set_key(tree, key, value, text)]


def _parse(text: str) -> Any:
    """The value of a word, read as YAML: numbers, true, null, [lists], {mappings}."""
    return OmegaConf.to_container(OmegaConf.create(f"value: {text}"))["value"]  # type: ignore[index, call-overload]


def _reason(error: Exception) -> str:
    """What a reader of YAML stumbled over."""
    return f" ({error.problem})" if isinstance(error, MarkedYAMLError) and error.problem else ""


def _setting_problems(tree: DictConfig, key: str, text: str) -> list[str]:
    """What is wrong with a setting of the runs by itself; of what stands for others, the runs tell."""
    if key in RESERVED or key == "config":
        return []
    problems = overrides.setting_problems(key, text)
    known = [*overrides.KEYS, *overrides.RECIPE_KEYS, *GROUPS, *declared(tree)]
    if problems and key not in known and nearest(key, known) and ("." in key or "did you mean" not in problems[0]):
        return [unknown_key(key, known)]
    return problems


def _contradictions(tree: Tree, name: str, typed: Pairs) -> list[str]:
    """What keys of a launch say against one another; ``name`` is the grid's, ``typed`` are settings of its runs."""
    grid, problems = tree.grid, []
    if tree.predict_from is not None and not tree.predict:
        problems.append(f"predict_from={tree.predict_from}: give predict=true, too")
    if isinstance(tree.cluster, SlurmSettings):
        problems += [*sbatch_options.problems(tree.cluster), *_device_problems(tree.cluster)]
    elif tree.print_script:
        problems.append("print_script=true: tasks on this machine have no scripts; give cluster=slurm, too")
    if tree.json and not tree.dry_run:
        problems.append("json=true: of a launch there is only its plan as JSON; give dry_run=true, too")
    if not tree.study.tasks:
        problems.append(f"study.tasks: no task; give some of {', '.join(TASKS)}")
    named = [(point, key) for point, settings in grid.points.items() for key in settings]
    if tree.seeds is not None:
        if "seed" in {*grid.axes, *grid.zip, *(key for _, key in named)}:
            problems.append(f"seeds={tree.seeds}: grid={name} varies seed itself; leave out one of the two")
        if any(key == "seed" for key, _ in typed):
            problems.append(f"seeds={tree.seeds}: seed=N is given too; leave out one of the two")
    lengths = {key: len(values) for key, values in listed(grid.zip).items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        problems.append(f"grid.zip: settings that vary together need equally many values: {counts}")
    if tree.optimum_from is not None and grid.rule != "isoflop":
        problems.append(f"optimum_from={tree.optimum_from}: for grids of equal compute alone; give grid=isoflop, too")
    problems += [f"grid.axes.{key}: in grid.zip too; leave out one of the two" for key in grid.zip if key in grid.axes]
    problems += [
        f"grid.points.{point}: {key}={grid.points[point][key]} is none of the lengths of the axis"
        for point, key in named
        if key in LENGTHS and key in grid.axes and grid.points[point][key] not in listed(grid.axes)[key]
    ]
    return problems + [
        f"grid.points.{point}.{key}: in grid.{section} too; leave out one of the two"
        for point, key in named
        for section, varied in (("axes", grid.axes), ("zip", grid.zip))
        if key in varied and (key not in LENGTHS or section == "zip")  # a point may have one of the lengths alone
    ]


def _device_problems(cluster: SlurmSettings) -> list[str]:
    """What is wrong with the choice of each task's devices."""
    if cluster.wall_hours is not None and cluster.devices != "auto":
        return [f"cluster.wall_hours={cluster.wall_hours:g}: give cluster.devices=auto, too"]
    unknown = cluster.gpus_per_node and cluster.device is None and cluster.flops_per_second is None
    if cluster.wall_hours is not None and unknown:
        return [f"cluster.wall_hours={cluster.wall_hours:g}: how fast is a GPU? Give cluster.device, such as h100"]
    return []


def help_text(words: Sequence[str]) -> str:
    """Usage, the choices, and the keys of those that ``words`` make. Raises ``ConfigError`` for a wrong choice."""
    return _page(
        words,
        "python sweeps/launch.py [grid=NAME] [study=NAME] [cluster=NAME] key=value ...    (installed: nepa-launch)",
        "Plans a study, runs what is missing of it and shows the results. The same command again does what is missing; "
        "`nepa-status STUDY_DIR` shows it.",
    )


def calibration_help(words: Sequence[str]) -> str:
    """The same of ``nepa-calibrate``."""
    return _page(
        words,
        "nepa-calibrate [grid=NAME] [study=NAME] [cluster=NAME] key=value ...",
        "Measures how long the tasks of such a study take where they will run, once, keeps that for better estimates, "
        "and shows the plan: `nepa-launch calibrate=true dry_run=true`, whose keys these are.",
    )


def _page(words: Sequence[str], usage: str, about: str) -> str:
    pairs = (word.partition("=") for word in spelled(words, SWITCHES))
    tree, used = compose_tree({group: name for group, _, name in pairs if group in GROUPS})
    chosen: Any = OmegaConf.to_object(tree)
    lines = [
        *(help_line(f"{group}=NAME", f"{', '.join(options(group))} (here {used[group]})") for group in GROUPS),
        *_key_lines("", Tree()),
        "",
        f"Keys of {', '.join(f'{group}={name}' for group, name in used.items())}, with their values:",
        *(line for section in (*GROUPS, "budget") for line in _key_lines(f"{section}.", getattr(chosen, section))),
        "",
        "Any setting of a run works too and holds for every point, e.g. pretrain.epochs=2 data.root=DIR;",
        "`nepa-train --help` lists them. Fewer points: study.sizes=[femto,pico].",
        "The keys of another choice: `nepa-launch cluster=slurm --help`.",
    ]
    return help_page(
        usage,
        about,
        lines,
        "nepa-launch grid=model_size dry_run=true",
        "nepa-launch grid=model_size study=imagenet data.root=DIR cluster=slurm cluster.partition=gpu",
    )


def _key_lines(prefix: str, section: Any) -> Iterator[str]:
    """A line for every key of a section, and below a key that holds settings of runs one for each of these."""
    for item in (item for item in fields(section) if item.metadata):
        key, value, meaning = f"{prefix}{item.name}", getattr(section, item.name), item.metadata["help"]
        if isinstance(value, dict):
            form = (
                ".NAME={SETTING: ...}"
                if key == POINTS_KEY
                else ".NAME=..."
                if key in MAPPING_KEYS
                else ".SETTING=[...]"
                if key in LISTS_KEYS
                else ".SETTING=..."
            )
            yield help_line(key + form, meaning)
            yield from (f"    {key}.{setting}={_text(each)}" for setting, each in value.items())
        else:
            yield help_line(f"{key}={_text(value)}", meaning + limits(item.metadata))


def _text(value: Any) -> str:
    """The word that a user would type for ``value``."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_text(each)}' for key, each in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else to_text(value)
