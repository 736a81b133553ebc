"""How pre-training's learning rate follows the model's size, so that no size of a study is held back by its rate.

``fixed``: every size has ``base_lr``. ``power``: the rate is a power of the parameters. ``mup``: the maximal update
parametrisation in width (Tensor Programs V, arXiv 2203.03466, table 8, Adam), by which every kind of tensor has its own
rate and initial size. For the last two ``base_lr`` is what fits the rung ``lr_reference``. Free of torch.

What table 8 calls input weights and biases (here the patch embedding, tokens, positions, norms, LayerScale and biases)
keep rate and initial size at every width. The matrices of the blocks are hidden weights: their rate falls as
1 / fan_in and their initial standard deviation as 1 / sqrt(fan_in). There are no output weights in pre-training: the
prediction is the final norm's output, and the cosine with a target as wide is the mean over the width that table 8's
1 / fan_in makes of an output layer.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence

from nepa_scale.config.ladder import Architecture, backbone_params
from nepa_scale.config.schema import RunConfig

AUTHORS_STD = 0.02
_MATRIX = re.compile(r"(?:^|\.)blocks\.\d+\.(?:attn|mlp)\.\w+\.weight$")
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
