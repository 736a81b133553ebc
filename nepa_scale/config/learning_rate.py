"""Pre-training's learning rate: how it follows the model's size, and when it falls, so that runs can branch off.

No size of a study is to be held back by its rate.
``fixed``: every size has ``base_lr``. ``power``: the rate is a power of the parameters. ``mup``: the maximal update
parametrisation in width (Tensor Programs V, arXiv 2203.03466, table 8, Adam), by which every kind of tensor has its own
rate and initial size. For the last two ``base_lr`` is what fits the rung ``lr_reference``. Free of torch.

What table 8 calls input weights and biases (here the patch embedding, tokens, positions, norms, LayerScale and biases)
keep rate and initial size at every width. The matrices of the blocks are hidden weights: their rate falls as
1 / fan_in and their initial standard deviation as 1 / sqrt(fan_in). There are no output weights in pre-training: the
prediction is the final norm's output, and the cosine with a target as wide is the mean over the width that table 8's
1 / fan_in makes of an output layer.

Schedule ``wsd`` holds the rate, so that short decays may branch off a long run: until its decay a run with as many
warm-up steps, the same peak rate, seed and images takes the very steps of a longer one (arXiv 2405.18392). From that
run's checkpoint it needs only the rest.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nepa_scale.config.ladder import Architecture, backbone_params
from nepa_scale.config.registry import spec
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import TaskConfig

AUTHORS_STD = 0.02
_MATRIX = re.compile(r"(?:^|\.)blocks\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.fc\w*)\.weight$")
_QUERY_NORM = re.compile(r"(?:^|\.)attn\.q_norm\.weight$")
_PATCH_EMBED = re.compile(r"(?:^|\.)patch_embed\.proj\.weight$")


@dataclasses.dataclass(frozen=True)
class WidthScaling:
    """What ``mup`` makes of each tensor of a backbone that is ``own``, beside one that is ``reference``."""

    own: Architecture
    reference: Architecture
    xavier: bool
    """Whether weights were drawn Xavier-uniform, not with the authors' standard deviation."""

    def rate(self, name: str) -> float:
        """The multiplier of the learning rate of the tensor called ``name``."""
        if _QUERY_NORM.search(name):
            return self._query_scale
        return self._fan_in_ratio(name) if _MATRIX.search(name) else 1.0

    def initial(self, name: str, shape: Sequence[int]) -> float:
        """The multiplier of the tensor's initial values, as they are drawn without this rule."""
        if _QUERY_NORM.search(name):
            return self._query_scale
        fan_out, fan_in = shape[0], math.prod(shape[1:])
        if _PATCH_EMBED.search(name):
            return self._std(fan_in, self.reference.embed_dim) / self._std(fan_in, fan_out)
        if not _MATRIX.search(name):
            return 1.0
        ratio = self._fan_in_ratio(name)
        expanding = ".mlp.fc1" in name
        widths = [arch.mlp_hidden if expanding else arch.embed_dim for arch in (self.own, self.reference)]
        there = self._std(fan_in * ratio, fan_out * widths[1] / widths[0])
        return there * math.sqrt(ratio) / self._std(fan_in, fan_out)

    @property
    def _query_scale(self) -> float:
        """Makes of scores / sqrt(d) the rule's scores / d, times what leaves those of the reference as they are."""
        return math.sqrt(self.reference.head_dim / self.own.head_dim)

    def _fan_in_ratio(self, name: str) -> float:
        if ".mlp.fc2." in name:
            return self.reference.mlp_hidden / self.own.mlp_hidden
        return self.reference.embed_dim / self.own.embed_dim

    def _std(self, fan_in: float, fan_out: float) -> float:
        """Of weights between so many channels, as they are drawn without this rule."""
        return math.sqrt(2 / (fan_in + fan_out)) if self.xavier else AUTHORS_STD


def peak_lr(config: RunConfig) -> float:
    """Pre-training's learning rate at the end of warm-up; with ``mup`` that of what is no matrix of a block."""
    section = config.pretrain
    if section.lr_rule != "power":
        return section.peak_lr
    ratio = backbone_params(config.model.architecture()) / backbone_params(_reference(config))
    return float(section.peak_lr * ratio ** (section.lr_exponent or 0.0))


def width_scaling(config: RunConfig) -> WidthScaling | None:
    """How ``mup`` scales this run's tensors; None under another rule."""
    if config.pretrain.lr_rule != "mup":
        return None
    own, reference = config.model.architecture(), _reference(config)
    return WidthScaling(own, reference, xavier=config.model.weight_init == "xavier")


def problems(config: RunConfig) -> list[str]:
    """What is wrong with the rule of pre-training's learning rate."""
    section = config.pretrain
    rule, given = section.lr_rule, {"lr_reference": section.lr_reference, "lr_exponent": section.lr_exponent}
    needed = {"fixed": [], "power": ["lr_reference", "lr_exponent"], "mup": ["lr_reference"]}[rule]
    meaning = {"lr_reference": "the size whose rate is base_lr", "lr_exponent": "the power of the parameters"}
    lines = [
        f"pretrain.{key}: pretrain.lr_rule={rule} needs it, {meaning[key]}"
        if key in needed
        else f"pretrain.{key}={value}: pretrain.lr_rule={rule} does not use it; leave it out"
        for key, value in given.items()
        if (key in needed) == (value is None)
    ]
    return lines or _head_problems(config)


def describe(config: RunConfig) -> str | None:
    """The rates that a rule makes, in words; None where all sizes have the same."""
    section, scaling = config.pretrain, width_scaling(config)
    if section.lr_rule == "fixed":
        return None
    text = f"{peak_lr(config):.3g} ({section.lr_rule} from {section.lr_reference})"
    if scaling is None:
        return text
    ratio = scaling.rate("blocks.0.attn.qkv.weight")
    return f"{text}, {peak_lr(config) * ratio:.3g} for the matrices of the blocks"


def _reference(config: RunConfig) -> Architecture:
    """The architecture of ``lr_reference``: the rung's own shape, otherwise as this run's."""
    size = config.pretrain.lr_reference or config.model.size
    rung = dataclasses.replace(config.model, size=size, embed_dim=None, depth=None, num_heads=None, mlp_hidden=None)
    return rung.architecture()


def _head_problems(config: RunConfig) -> list[str]:
    """Attention scores / d need heads of one width, or a weight in their norm that takes up the difference."""
    scaling = width_scaling(config)
    if scaling is None or config.model.qk_norm == "weight" or scaling.own.head_dim == scaling.reference.head_dim:
        return []
    own, there = scaling.own.head_dim, scaling.reference.head_dim
    fitting = scaling.own.embed_dim // there
    heads = f"model.num_heads={fitting} or " if scaling.own.embed_dim % there == 0 else ""
    return [
        f"pretrain.lr_rule=mup: heads are {own} wide here and {there} in pretrain.lr_reference="
        f"{config.pretrain.lr_reference}; give {heads}model.qk_norm=weight, whose weight takes up the difference"
    ]


LENGTH_KEYS = ("pretrain.steps", "pretrain.warmup", "pretrain.decay")


def kept_steps(text: str | None) -> frozenset[int]:
    """The steps that ``checkpoint.keep_steps`` lists. Raises ``ValueError`` where it is no list of steps."""
    return frozenset(int(word) for word in text.split(",")) if text else frozenset()


def kept_beyond(config: RunConfig, total_steps: int) -> list[str]:
    """Steps of ``checkpoint.keep_steps`` after the last, which would never be kept; others have their own line."""
    try:
        steps = kept_steps(config.checkpoint.keep_steps)
    except ValueError:
        return []
    return [
        f"checkpoint.keep_steps: step {step} lies beyond the {total_steps} steps of pre-training"
        for step in sorted(steps)
        if step > total_steps
    ]


def unused_decay(section: TaskConfig, task: str) -> list[str]:
    """A ``decay`` that was chosen, but that the schedule of ``task`` does not have."""
    if section.schedule == "wsd" or section.decay == type(section)().decay:
        return []
    return [
        f"{task}.decay={section.decay}: {task}.schedule={section.schedule} does not use it; give wsd or leave it out"
    ]


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
    sections = ("model", "data", "engine", "pretrain", "seed")
    return {key: value for key, value in settings.items() if key.split(".")[0] in sections and key not in LENGTH_KEYS}


def branch_difference(step: int, there: dict[str, Any], here: dict[str, Any]) -> str | None:
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


def branch_problems(config: RunConfig) -> list[str]:
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
