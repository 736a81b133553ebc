"""What ``launch.py --help`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from omegaconf import OmegaConf

from nepa_scale.utils.arguments import help_line, help_page, limits, spelled
from nepa_scale.utils.cli import to_text
from sweeps.settings.command_line import SWITCHES
from sweeps.settings.conf_files import compose_tree, options
from sweeps.settings.keys import LISTS_KEYS, MAPPING_KEYS, POINTS_KEY
from sweeps.settings.schema import GROUPS, Tree


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
