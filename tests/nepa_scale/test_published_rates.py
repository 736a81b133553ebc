"""Learning rate and weight decay of every parameter of the base and large models under the published recipes.

The rates are written out here once more, from the description of the authors' two schedules and of the paper's, and
beside them stand the numbers that follow for 100 epochs of ImageNet at batch 1024, 125,100 steps.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from nepa_scale.config.overrides import parse
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import FinetuneConfig
from nepa_scale.models.build import build_backbone
from nepa_scale.optim.optimizer import LayerDecay, group_schedules, parameter_groups
from nepa_scale.tasks.classify import ClassifyModule
from nepa_scale.tasks.next_embedding import NextEmbedding

SIZES = ("base", "large")
DEPTH = {"base": 12, "large": 24}
STEPS = {("released", "base"): 125_100, ("released", "large"): 125_100}
STEPS |= {("paper", "base"): 125_100, ("paper", "large"): 62_550}
Rate = Callable[[int], float]


def config_of(size: str, *words: str) -> RunConfig:
    """A run of one of the two published sizes at patch 14."""
    return parse(["task=classify", f"model.size={size}", "model.patch_size=14", "classify.image_size=224", *words])


def classifier(config: RunConfig, *, frozen: bool = True) -> nn.Module:
    """The thousand-class classifier of a configuration, without memory for its weights."""
    section, model = config.classify, config.model
    model.qk_norm = section.qk_norm or model.qk_norm
    with torch.device("meta"):
        module = ClassifyModule(build_backbone(model.architecture(), 224), 1000, section)
    module.backbone.patch_embed.requires_grad_(not frozen)
    return module


def rates_by_name(module: nn.Module, section: FinetuneConfig, total: int) -> dict[str, Rate]:
    """The learning rate as a function of the step of every trained parameter, as training sets it."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    settings: dict[str, Any] = {"lr": section.peak_lr, "weight_decay": 0.05, "head_lr": section.head_lr}
    groups = parameter_groups(module, layered=True, **settings)
    schedules = group_schedules(groups, section, total, LayerDecay.of(section))
    return {
        names[id(parameter)]: lambda step, peak=group["lr"], multiplier=multiplier: peak * multiplier(step)
        for group, multiplier in zip(groups, schedules, strict=True)
        for parameter in group["params"]
    }


def depth_scale(name: str, depth: int) -> int:
    """The authors' s: N - 1 - i for block i, N for what is below the blocks, 0 for what is above."""
    block = re.fullmatch(r"backbone\.blocks\.(\d+)\..+", name)
    if block:
        return depth - 1 - int(block.group(1))
    return depth if name in ("backbone.cls_token", "backbone.pos_embed") or "patch_embed" in name else 0


def in_head(name: str) -> bool:
    """Classifier and final norm of the backbone."""
    return name in ("head.weight", "head.bias", "backbone.norm.weight", "backbone.norm.bias")


def released_rate(name: str, size: str) -> tuple[float, float, int]:
    """Peak rate, factor f and warm-up w of the authors' ``llrd_cosine_warmup`` on 125,100 steps."""
    base, llrd, ratio = {"base": (6e-3, 0.65, 0.2), "large": (4e-3, 0.75, 0.3)}[size]
    f = llrd ** depth_scale(name, DEPTH[size])
    longest = math.ceil(ratio * 125_100)
    w = max(1, min(125_100, longest - round(longest * min(f, 1.0))))
    return (1e-3 if in_head(name) else base), f, w


def places(w: int, total: int) -> list[int]:
    """Start, inside and end of the warm-up, half-way down, and the end."""
    return sorted({0, 1, w // 2, w - 1, w, w + 1, total // 2, (w + total) // 2, total - 1, total})


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "all"])
@pytest.mark.parametrize("size", SIZES)
def test_released_rates(size: str, frozen: bool) -> None:
    """Every parameter's rate under the released recipe, at every stage of its own warm-up and after it."""
    config = config_of(size, "classify.recipe=released")
    module, total = classifier(config, frozen=frozen), 125_100
    rates = rates_by_name(module, config.classify, total)
    assert rates.keys() == {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert frozen is not any("patch_embed" in name for name in rates)
    for name, rate in rates.items():
        peak, f, w = released_rate(name, size)
        for t in places(w, total):
            if t < w:
                expected = f * t / w
            else:
                expected = f * 0.5 * (1 + math.cos(math.pi * (t - w) / (total - w))) if t < total else 0.0
            assert rate(t) / peak == pytest.approx(expected, abs=1e-12), (name, t)


@pytest.mark.parametrize(
    ("size", "name", "peak", "w"),
    [
        ("base", "fc_norm.weight", 6.0e-3, 1),
        ("base", "backbone.blocks.11.mlp.fc1.weight", 6.0e-3, 1),
        ("base", "backbone.blocks.10.mlp.fc1.weight", 3.9e-3, 8_757),
        ("base", "backbone.blocks.5.gamma_1", 4.525e-4, 23_133),
        ("base", "backbone.blocks.0.attn.q_norm.weight", 5.25e-5, 24_801),
        ("base", "backbone.cls_token", 3.41e-5, 24_878),
        ("base", "head.weight", 1e-3, 1),
        ("base", "backbone.norm.bias", 1e-3, 1),
        ("large", "backbone.blocks.23.norm1.weight", 4.0e-3, 1),
        ("large", "backbone.blocks.22.attn.qkv.weight", 3.0e-3, 9_382),
        ("large", "backbone.blocks.11.attn.qkv.bias", 1.267e-4, 36_341),
        ("large", "backbone.blocks.0.mlp.fc2.weight", 5.35e-6, 37_480),
        ("large", "head.bias", 1e-3, 1),
    ],
)
def test_released_numbers(size: str, name: str, peak: float, w: int) -> None:
    """Where a group's rate is highest and how high, as the numbers that the authors' rule gives."""
    config = config_of(size, "classify.recipe=released")
    rate = rates_by_name(classifier(config), config.classify, 125_100)[name]
    assert rate(0) == 0
    assert rate(w) == pytest.approx(peak, rel=2e-3)
    assert rate(w - 1) < rate(w) > rate(w + 1)


@pytest.mark.parametrize("size", SIZES)
def test_rates_of_the_paper(size: str) -> None:
    """Decay rises in a straight line to 1, under one warm-up of five epochs and half a cosine."""
    config, total = config_of(size, "classify.recipe=paper"), STEPS["paper", size]
    start = {"base": 0.35, "large": 0.60}[size]
    w = 5 * 1251
    for name, rate in rates_by_name(classifier(config), config.classify, total).items():
        s = depth_scale(name, DEPTH[size])
        for t in places(w, total):
            f = (start * (1 - t / total) + t / total) ** s
            shape = t / w if t < w else 0.5 * (1 + math.cos(math.pi * (t - w) / (total - w)))
            assert rate(t) / 4e-3 == pytest.approx(f * shape, abs=1e-12), (name, t)
        assert rate(0) == rate(total) == 0


def test_numbers_of_the_paper() -> None:
    """Base: the lowest block starts at 0.35^11 of the rate; half-way every block's decay is 0.675^s."""
    config = config_of("base", "classify.recipe=paper")
    rates = rates_by_name(classifier(config), config.classify, 125_100)
    lowest, top = rates["backbone.blocks.0.norm1.weight"], rates["backbone.blocks.11.norm1.weight"]
    assert lowest(1) / top(1) == pytest.approx(9.65e-6, rel=2e-3)
    assert lowest(62_550) / top(62_550) == pytest.approx(0.013258, rel=2e-3)
    assert lowest(125_099) / top(125_099) == pytest.approx(1.0, rel=1e-4)
    assert rates["head.weight"](6_255) == rates["backbone.norm.weight"](6_255) == pytest.approx(4e-3, rel=1e-12)


def test_cosine_ramp_of_the_authors_code() -> None:
    """``llrd_cosine``: the decay goes from start to end along half a cosine over the whole training."""
    words = ("classify.recipe=paper", "classify.layer_decay=0.65", "classify.layer_decay_ramp=cosine")
    config = config_of("base", *words)
    rates = rates_by_name(classifier(config), config.classify, 1000)
    for t in (1, 50, 250, 500, 750, 999):
        llrd = 0.65 + (1.0 - 0.65) * 0.5 * (1 - math.cos(math.pi * t / 1000))
        ratio = rates["backbone.cls_token"](t) / rates["head.bias"](t)
        assert ratio == pytest.approx(llrd**12, abs=1e-9)


@pytest.mark.parametrize(
    ("size", "total", "trained", "tensors"),
    [("base", 86_299_624, 85_847_272, 249), ("large", 303_994_856, 303_391_720, 489)],
)
def test_parameters_of_the_released_classifiers(size: str, total: int, trained: int, tensors: int) -> None:
    """The authors' counts: a weight for q and k each, fc_norm, head; the frozen patch convolution is not trained.

    They keep q, k and v apart, which is four tensors more in each block than fused.
    """
    module = classifier(config_of(size, "classify.recipe=released"))
    parameters = list(module.parameters())
    assert sum(parameter.numel() for parameter in parameters) == total
    assert sum(parameter.numel() for parameter in parameters if parameter.requires_grad) == trained
    assert len(parameters) + 4 * DEPTH[size] == tensors


def test_last_token_head_has_no_norm_of_its_own() -> None:
    """The paper's head is the linear layer alone: 2 x 768 parameters fewer."""
    module = classifier(config_of("base", "classify.recipe=paper", "classify.qk_norm=weight"))
    assert sum(parameter.numel() for parameter in module.parameters()) == 86_299_624 - 2 * 768


IN_BLOCKS = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
BARE = ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "gamma_1", "gamma_2")
BARE += ("attn.qkv.bias", "attn.proj.bias", "mlp.fc1.bias", "mlp.fc2.bias")


@pytest.mark.parametrize("words", [(), ("classify.qk_norm=weight", "classify.freeze_patch_embed=true")])
@pytest.mark.parametrize("task", ["pretrain", "classify"])
@pytest.mark.parametrize("size", SIZES)
def test_weight_decay_by_name(size: str, task: str, words: tuple[str, ...]) -> None:
    """The whole list: four matrices of a block, patch convolution, class token and classifier; nothing else."""
    config = config_of(size, *words, "classify.pool=mean")
    frozen = config.classify.freeze_patch_embed
    module = classifier(config, frozen=frozen)
    if task == "pretrain":
        module = NextEmbedding(module.backbone, config.pretrain)  # type: ignore[arg-type]
    blocks = [f"backbone.blocks.{block}." for block in range(DEPTH[size])]
    decayed = {block + name for block in blocks for name in IN_BLOCKS} | {"backbone.cls_token"}
    bare = {block + name for block in blocks for name in BARE} | {"backbone.norm.weight", "backbone.norm.bias"}
    if words:
        bare |= {f"{block}attn.{name}.weight" for block in blocks for name in ("q_norm", "k_norm")}
    if not frozen:
        decayed |= {"backbone.patch_embed.proj.weight"}
        bare |= {"backbone.patch_embed.proj.bias"}
    if task == "classify":
        decayed |= {"head.weight"}
        bare |= {"head.bias", "fc_norm.weight", "fc_norm.bias"}
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found: dict[float, set[str]] = {0.0: set(), 0.05: set()}
    for group in parameter_groups(module, lr=1.0, weight_decay=0.05, layered=True):
        found[group["weight_decay"]] |= {names[id(parameter)] for parameter in group["params"]}
    assert found == {0.05: decayed, 0.0: bare}


def test_position_table_goes_with_the_class_token() -> None:
    """Absolute positions are decayed, and learn as slowly as the class token."""
    config = config_of("base", "classify.recipe=released", "model.pos_embed=absolute")
    module = classifier(config)
    groups = parameter_groups(module, lr=1.0, weight_decay=0.05, layered=True)
    lowest = [group for group in groups if group["steps_below"] == 12]
    assert [group["weight_decay"] for group in lowest] == [0.05]
    assert {tuple(parameter.shape) for parameter in lowest[0]["params"]} == {(1, 1, 768), (1, 257, 768)}
