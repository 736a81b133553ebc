"""Runs that begin as a longer one did: schedule wsd holds the rate, so short decays may branch off a long run.

Until its decay a run with as many warm-up steps, the same peak rate, seed and images takes the very steps of a longer
one (arXiv 2405.18392). From that run's checkpoint it needs only the rest. Free of torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig

LENGTH_KEYS = ("pretrain.steps", "pretrain.warmup", "pretrain.decay")


def kept_steps(text: str | None) -> frozenset[int]:
    """The steps that ``checkpoint.keep_steps`` lists. Raises ``ValueError`` where it is no list of steps."""
    return frozenset(int(word) for word in text.split(",")) if text else frozenset()


def stable_part(settings: dict[str, Any]) -> tuple[int, int]:
    """(steps of warm-up, step at which the decay begins) of pre-training with these flat settings."""
    steps = settings["pretrain.steps"]
    warmup = warmup_steps(steps, settings["pretrain.warmup"])
    return warmup, decay_start(steps, warmup, settings["pretrain.decay"])


def warmup_steps(total_steps: int, warmup: float) -> int:
    """The steps of warm-up that a fraction of all steps makes: a begun step is a whole one (authors' code).

    A fraction that was made from whole steps gives these again, whatever the product's last digits are.
    """
    return math.ceil(round(warmup * total_steps, 6))


def decay_start(total_steps: int, warmup_steps: int, decay: float) -> int:
    """The step at which the rate of schedule wsd begins to fall: for the last ``decay`` of the steps, one at least."""
    return max(warmup_steps, total_steps - max(1, round(decay * total_steps)))


def shared_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those flat settings that a branch and the run it leaves have in common: all of pre-training's but its length."""
    sections = ("model", "data", "pretrain", "seed")
    return {key: value for key, value in settings.items() if key.split(".")[0] in sections and key not in LENGTH_KEYS}


def difference(step: int, there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """Why a run with settings ``here`` would not have come to the state after ``step`` of one with ``there``.

    Both are flat result settings; those of the tasks after pre-training do not count.
    """
    alike, their_alike = shared_settings(here), shared_settings(there)
    differing = [key for key in {**their_alike, **alike} if their_alike.get(key) != alike.get(key)]
    if differing:
        return ", ".join(f"{key} ({there.get(key)} there, {here.get(key)} now)" for key in differing)
    if here["pretrain.schedule"] != "wsd" or None in (here["pretrain.steps"], there["pretrain.steps"]):
        return "both need pretrain.schedule=wsd and a length in pretrain.steps"
    (warmup, fall), (their_warmup, their_fall) = stable_part(here), stable_part(there)
    if warmup != their_warmup:
        return f"pretrain.warmup makes {their_warmup} steps there and {warmup} now"
    if step > min(fall, their_fall):
        return f"step {step} lies in a decay, which begin at {their_fall} there and at {fall} now"
    return None


def problems(config: RunConfig) -> list[str]:
    """What is wrong with the settings that keep checkpoints for branches, or begin at one."""
    lines, saving = [], config.checkpoint
    try:
        if any(step < 1 for step in kept_steps(saving.keep_steps)):
            raise ValueError
    except ValueError:
        lines.append(f"checkpoint.keep_steps={saving.keep_steps}: give steps from 1 on, e.g. 80,160")
    if saving.branch_from is None or spec(config.task).downstream:
        return lines
    if config.pretrain.schedule != "wsd" or config.pretrain.steps is None:
        lines.append("checkpoint.branch_from: needs pretrain.schedule=wsd and a length in pretrain.steps")
    elif not (Path(saving.branch_from) / "checkpoints").is_dir():
        lines.append(
            f"checkpoint.branch_from={saving.branch_from}: holds no checkpoints; name the pretrain folder of a run with"
            " checkpoint.keep_steps"
        )
    return lines
