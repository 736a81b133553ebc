"""Parameter groups and schedule against the recipe's own words and against timm."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import param_groups_layer_decay
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from nepa_scale.config.ladder import architecture
from nepa_scale.config.learning_rate import warmup_steps
from nepa_scale.config.task_settings import ClassifyConfig, FinetuneConfig, PretrainConfig, SegmentConfig
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.optim.optimizer import LayerDecay, build_optimizer, group_schedules, parameter_groups, schedule
from nepa_scale.tasks.classify import ClassifyModule
from nepa_scale.tasks.next_embedding import NextEmbedding
from nepa_scale.tasks.segment import SegmentModule

DEPTH = 3


def backbone(mlp: str = "gelu") -> NepaViT:
    """Three blocks with every kind of parameter the model can have."""
    return build_backbone(architecture("femto", 8, mlp=mlp, qk_norm="weight", depth=DEPTH), 16)  # type: ignore[arg-type]


def trained_by(task: str) -> nn.Module:
    """What a task trains."""
    if task == "pretrain":
        return NextEmbedding(backbone(), PretrainConfig(mask_ratio=0.4))
    if task == "classify":
        return ClassifyModule(backbone("swiglu"), 10, ClassifyConfig())
    return SegmentModule(backbone(), 11, SegmentConfig(channels=8, aux_weight=0.4))


def groups_by_name(module: nn.Module, *, layer_decay: float = 1.0, **settings: float) -> dict[str, dict[str, float]]:
    """The decayed rate and the weight decay of every parameter, by name; fails when one is in two groups."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found: dict[str, dict[str, float]] = {}
    for group in parameter_groups(module, layered=layer_decay != 1.0, **settings):  # type: ignore[arg-type]
        factor = LayerDecay(layer_decay).factor(group["steps_below"], 0.5)
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert name not in found
            found[name] = {"lr": group["lr"] * factor, "weight_decay": group["weight_decay"]}
    return found


def is_exempt(module: nn.Module, name: str) -> bool:
    """The authors' rule, by what a parameter is: biases, all norms (also of q and k) and LayerScale."""
    owner = module.get_submodule(name.rpartition(".")[0])
    return name.endswith("bias") or "gamma_" in name or isinstance(owner, nn.LayerNorm | nn.GroupNorm)


@pytest.mark.parametrize("task", ["pretrain", "classify", "segment"])
def test_weight_decay_follows_the_authors_rule(task: str) -> None:
    """Every parameter is in exactly one group, decayed unless it is a bias, a norm or LayerScale."""
    module = trained_by(task)
    groups = groups_by_name(module, lr=1.0, weight_decay=0.05)
    expected = {name: 0.0 if is_exempt(module, name) else 0.05 for name, _ in module.named_parameters()}
    assert {name: group["weight_decay"] for name, group in groups.items()} == expected


def test_weight_decay_of_the_parameters_people_argue_about() -> None:
    """Class token and patch convolution are decayed; q/k norms, LayerScale and biases are not."""
    groups = groups_by_name(backbone(), lr=1.0, weight_decay=0.05)
    decayed = {name for name, group in groups.items() if group["weight_decay"]}
    in_blocks = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")
    blocks = {f"blocks.{block}.{name}" for block in range(DEPTH) for name in in_blocks}
    assert decayed == {"cls_token", "patch_embed.proj.weight"} | blocks
    assert {"blocks.0.attn.q_norm.weight", "blocks.0.gamma_1", "norm.weight"} <= groups.keys() - decayed


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_layer_decay_closed_form(task: str) -> None:
    """Block i of N learns at decay^(N-1-i), class token and patches at decay^N, last norms and head at 1."""
    groups = groups_by_name(trained_by(task), lr=2.0, weight_decay=0.05, layer_decay=0.5)
    for name, group in groups.items():
        block = re.match(r"backbone\.blocks\.(\d)\.", name)
        steps = DEPTH - 1 - int(block.group(1)) if block else 0
        if name.startswith(("backbone.cls_token", "backbone.patch_embed")):
            steps = DEPTH
        assert group["lr"] == 2.0 * 0.5**steps, name
    assert {group["lr"] for group in groups.values()} == {2.0, 1.0, 0.5, 0.25}


def test_groups_agree_with_timm() -> None:
    """timm's layer decay, told how this model is layered, gives each parameter the same settings."""
    model = backbone()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    theirs = {
        names[id(parameter)]: {"lr": 3e-3 * group["lr_scale"], "weight_decay": group["weight_decay"]}
        for group in param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.65)
        for parameter in group["params"]
    }
    ours = groups_by_name(model, lr=3e-3, weight_decay=0.05, layer_decay=0.65)
    assert ours.keys() == theirs.keys()
    for name, group in ours.items():
        assert group == pytest.approx(theirs[name], rel=1e-12), name


def test_frozen_parameters_are_left_out() -> None:
    """A parameter that is not trained gets neither an optimiser state nor weight decay."""
    model = backbone()
    model.patch_embed.requires_grad_(False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert groups_by_name(model, lr=1.0, weight_decay=0.05).keys() == trained
    assert "patch_embed.proj.weight" not in trained


def test_no_layer_decay_means_two_groups() -> None:
    """Without layer decay the groups differ in weight decay only, so the optimiser's kernels stay large."""
    groups = parameter_groups(backbone(), lr=1.0, weight_decay=0.05)
    assert sorted((group["lr"], group["weight_decay"]) for group in groups) == [(1.0, 0.0), (1.0, 0.05)]


@pytest.mark.parametrize("section", [PretrainConfig(base_lr=3e-4, batch_size=4096), FinetuneConfig(weight_decay=0.3)])
def test_optimizer_has_the_settings_of_the_task(section: PretrainConfig | FinetuneConfig) -> None:
    """Peak rate by the linear batch rule, both betas, epsilon 1e-8 and the weight decay arrive in AdamW."""
    optimizer = build_optimizer(backbone(), section)
    assert type(optimizer) is torch.optim.AdamW
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(section.base_lr * section.batch_size / 256, rel=1e-12)
        assert (group["betas"], group["eps"]) == ((section.beta1, section.beta2), 1e-8)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, section.weight_decay}


def test_optimizer_decays_as_the_groups_say() -> None:
    """With no gradient a step moves exactly the decayed parameters, each by its own rate x decay."""
    model = backbone()
    section = PretrainConfig(base_lr=0.1, batch_size=256, warmup=0.0)
    optimizer = build_optimizer(model, section, layered=True)
    LambdaLR(optimizer, group_schedules(optimizer.param_groups, section, 1000, LayerDecay(0.5)))
    groups = groups_by_name(model, lr=0.1, weight_decay=0.05, layer_decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        expected = 1.0 - groups[name]["lr"] * groups[name]["weight_decay"]
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), rtol=1e-6, atol=0)


def test_schedule_at_its_corners() -> None:
    """0 at the start, 1 where the warm-up ends, a half in the middle of the cosine, 0 at the end."""
    multiplier = schedule(1000, 0.1)
    assert [multiplier(step) for step in (0, 50, 100)] == [0.0, 0.5, 1.0]
    assert multiplier(550) == pytest.approx(0.5, abs=1e-12)
    assert multiplier(1000) == pytest.approx(0.0, abs=1e-12)
    assert multiplier(1001) == pytest.approx(0.0, abs=1e-12)


def test_schedule_of_the_paper() -> None:
    """40 of 1600 epochs of warm-up at batch 4096 are 12,520 of 500,800 steps."""
    multiplier = schedule(500_800, 40 / 1600)
    assert multiplier(12_519) < multiplier(12_520) == 1.0 > multiplier(12_521)


@pytest.mark.parametrize(("total", "fraction"), [(1, 0.0), (10, 0.0), (97, 0.13), (200, 0.5), (40, 1.0)])
def test_schedule_agrees_with_timm(total: int, fraction: float) -> None:
    """Every step of timm's cosine schedule with a linear warm-up in front, and none."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = math.ceil(fraction * total)
    timm = CosineLRScheduler(
        optimizer, t_initial=max(1, total - warmup), warmup_t=warmup, warmup_prefix=True, t_in_epochs=False
    )
    multiplier = schedule(total, fraction)
    for step in range(total):
        timm.step_update(step)
        assert multiplier(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12), step


@pytest.mark.parametrize(("total", "fraction"), [(97, 0.13), (200, 0.5), (50, 0.025), (97, 0.11), (30, 0.1)])
def test_schedule_agrees_with_transformers_formula(total: int, fraction: float) -> None:
    """The authors train with transformers' ``get_cosine_schedule_with_warmup``, written out, warm-up rounded up."""
    warmup, multiplier = math.ceil(fraction * total), schedule(total, fraction)
    for step in range(total + 1):
        if step < warmup:
            expected = float(step) / float(max(1, warmup))
        else:
            progress = float(step - warmup) / float(max(1, total - warmup))
            expected = max(0.0, 0.5 * (1.0 + math.cos(math.pi * 0.5 * 2.0 * progress)))
        assert multiplier(step) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("total", "warmup"), [(50, 0.025), (51, 0.4), (1000, 0.0001)])
@pytest.mark.parametrize("fall", ["cosine", "poly", "wsd"])
def test_a_begun_step_of_warm_up_is_a_whole_one(total: int, warmup: float, fall: str) -> None:
    """As in the authors' code, whatever comes after the warm-up: 50 steps x 0.025 are 2, not 1."""
    multiplier, steps = schedule(total, warmup, fall=fall), math.ceil(warmup * total)
    assert [multiplier(step) for step in range(steps + 1)] == [step / steps for step in range(steps + 1)]


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_warm_up_of_whole_steps_is_not_rounded_up(total: int, steps: int) -> None:
    """A fraction that was made from a number of steps gives that number: branches of several lengths rely on it."""
    assert warmup_steps(total, min(steps, total) / total) == min(steps, total)


def test_wsd_stays_at_the_peak_until_its_decay() -> None:
    """Warm-up, then the whole rate, then 1 - sqrt over the last part (arXiv 2405.18392)."""
    multiplier = schedule(1000, 0.1, fall="wsd", decay=0.2)
    assert [multiplier(step) for step in (0, 50, 100, 799, 800)] == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert [multiplier(step) for step in (850, 950)] == pytest.approx([0.5, 1 - math.sqrt(0.75)])
    assert multiplier(1000) == 0.0


def test_wsd_of_two_lengths_is_the_same_until_the_shorter_one_falls() -> None:
    """With a warm-up of equally many steps a long run passes through the short one's states before its decay."""
    short, long = schedule(200, 0.2, fall="wsd", decay=0.1), schedule(1000, 0.04, fall="wsd", decay=0.1)
    assert [short(step) for step in range(181)] == [long(step) for step in range(181)]
    assert short(182) < long(182)


@pytest.mark.parametrize(("total", "warmup", "decay"), [(1, 0.0, 0.01), (3, 1.0, 1.0), (10, 0.9, 0.5), (7, 0.3, 0.01)])
def test_wsd_at_its_edges_stays_between_zero_and_one(total: int, warmup: float, decay: float) -> None:
    """A warm-up that reaches into the decay, or a decay of less than a step, is no division by zero."""
    multiplier = schedule(total, warmup, fall="wsd", decay=decay)
    assert all(0 <= multiplier(step) <= 1 for step in range(total + 1))
