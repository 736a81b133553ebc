"""What ``launch.py --help`` prints."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from nepa_scale import overrides
from sweeps.command_line import compose_tree, options
from sweeps.settings import GROUPS, describe


def help_text() -> str:
    """Usage, the choices, and the keys of the default choices."""
    tree, used = compose_tree([])
    defaults: Any = OmegaConf.to_object(tree)
    lines = [
        "usage: python sweeps/launch.py [grid=NAME] [study=NAME] [cluster=NAME] key=value ...",
        "",
        *(f"{group + '=NAME':<14} {', '.join(options(group))} (default {used[group]})" for group in GROUPS),
        "study_dir=DIR  where plan, runs and report go (default studies/<study>-<grid>)",
        "branch=true    with grid=data_size: one long pre-training serves all sizes by short decays",
        "seeds=N        repeat every point of the grid with so many seeds",
        "calibrate=true measure how long such tasks take where they will run, once, for better estimates",
        "predict=true   write down what smaller runs let expect of the largest, before these start",
        "dry_run=true   show the plan with its cost and create nothing; also --dry-run",
        "unfit=drop     leave out points that do not fit the devices, with the reason, instead of refusing",
        "only=failed    start only what failed; only=missing: only what did not",
        "watch=false    leave once all is in line, the tasks go on; watch=true stays on Slurm, too",
        "",
        "Keys of the choices, with their values in the default ones:",
    ]
    for group in (*GROUPS, "budget"):
        for key, value, meaning in describe(getattr(defaults, group), group):
            word = f"{key}.SETTING=..." if isinstance(value, dict) else f"{key}={overrides.to_text(value)}"
            lines.append(f"  {word.replace(' ', ''):<48} {meaning}")
    lines += [
        "",
        "Any setting of a run works too and holds for every point, e.g. pretrain.epochs=2 data.root=DIR;",
        "`python nepa_scale/train.py --help` lists them. Fewer points: study.sizes=[femto,pico].",
        "The same command again does what is missing; `python sweeps/status.py STUDY_DIR` shows it.",
    ]
    return "\n".join(lines)
