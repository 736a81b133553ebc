"""What ``launch.py --help`` prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import OmegaConf

from nepa_scale.utils.cli import to_text
from sweeps.settings.conf_files import compose_tree, options
from sweeps.settings.keys import LISTS_KEYS, MAPPING_KEYS, POINTS_KEY
from sweeps.settings.schema import GROUPS, describe


def help_text(words: Sequence[str]) -> str:
    """Usage, the choices, and the keys of those that ``words`` make. Raises ``ConfigError`` for a wrong choice."""
    pairs = (word.partition("=") for word in words)
    tree, used = compose_tree({group: name for group, _, name in pairs if group in GROUPS})
    chosen: Any = OmegaConf.to_object(tree)
    lines = [
        "usage: python sweeps/launch.py [grid=NAME] [study=NAME] [cluster=NAME] key=value ...",
        "",
        *(f"{group + '=NAME':<14} {', '.join(options(group))} (here {used[group]})" for group in GROUPS),
        "study_dir=DIR  where plan, runs and report go (default studies/<study>-<grid>)",
        "branch=true    with grid=data_size: one long pre-training serves all sizes by short decays",
        "seeds=N        repeat every point of the grid with so many seeds",
        "calibrate=true measure how long such tasks take where they will run, once, for better estimates",
        "predict=true   write down what smaller runs let expect of the largest, before these start",
        "dry_run=true   show the plan with its cost and create nothing; also --dry-run",
        "print_script=true  with cluster=slurm: print the scripts that sbatch would get, and submit nothing",
        "unfit=drop     leave out points that do not fit the devices, with the reason, instead of refusing",
        "only=failed    start only what failed; only=missing: only what did not",
        "watch=false    leave once all is in line, the tasks go on; watch=true stays on Slurm, too",
        "",
        f"Keys of {', '.join(f'{group}={name}' for group, name in used.items())}, with their values:",
        *(line for section in (*GROUPS, "budget") for line in _key_lines(section, getattr(chosen, section))),
        "",
        "Any setting of a run works too and holds for every point, e.g. pretrain.epochs=2 data.root=DIR;",
        "`python nepa_scale/train.py --help` lists them. Fewer points: study.sizes=[femto,pico].",
        "The keys of another choice: `python sweeps/launch.py cluster=slurm --help`.",
        "The same command again does what is missing; `python sweeps/status.py STUDY_DIR` shows it.",
    ]
    return "\n".join(lines)


def _key_lines(name: str, section: Any) -> Iterator[str]:
    """A line for every key of a section, and below a key that holds settings of runs one for each of these."""
    for key, value, meaning in describe(section, name):
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
            yield f"  {key + form:<48} {meaning}"
            yield from (f"    {key}.{setting}={_text(each)}" for setting, each in value.items())
        else:
            yield f"  {f'{key}={_text(value)}':<48} {meaning}"


def _text(value: Any) -> str:
    """The word that a user would type for ``value``."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_text(each)}' for key, each in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else to_text(value)
