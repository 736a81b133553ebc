"""Learning rates that follow the model's size: closed forms, table 8 of Tensor Programs V, and a coordinate check."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small_tasks import config_of
from torch import Tensor, nn

from nepa_scale.config import learning_rate
from nepa_scale.config.overrides import parse
from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.utils.errors import ConfigError

WIDTHS = (32, 64, 128, 256)  # femto's and more
MUP = ("pretrain.lr_rule=mup", "pretrain.lr_reference=femto")
MATRICES = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight")


def as_wide(width: int, *, heads: int = 0) -> tuple[str, ...]:
    """Words for femto at another width, in heads of 16 channels as femto's or in so many."""
    return f"model.embed_dim={width}", f"model.num_heads={heads or width // 16}"


def built(root: Path, *words: str) -> Pretrain:
    """The task with its weights, drawn from the same seed."""
    torch.manual_seed(0)
    return Pretrain(config_of(root, "pretrain", *words))


def groups_of(task: Pretrain) -> dict[str, tuple[float, float]]:
    """(learning rate, weight decay) of every parameter by name."""
    names = {id(parameter): name.removeprefix("backbone.") for name, parameter in task.module.named_parameters()}
    groups = task.build_optimizer().param_groups
    return {names[id(each)]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}


def test_power_law_in_the_parameters_that_models_have(digits_root: Path) -> None:
    """Rate x (N / N of the reference) ^ exponent, both N counted on built models."""

    def counted(size: str) -> int:
        backbone = built(digits_root, f"model={size}").backbone
        return sum(each.numel() for part in (backbone.blocks, backbone.norm) for each in part.parameters())

    words = ("pretrain.lr_rule=power", "pretrain.lr_reference=femto", "pretrain.lr_exponent=-0.3")
    rate = 2e-3 * 32 / 256 * (counted("nano") / counted("femto")) ** -0.3
    task = built(digits_root, "model=nano", "pretrain.base_lr=2e-3", "pretrain.batch_size=32", *words)
    assert sorted({lr for lr, _ in groups_of(task).values()}) == pytest.approx([rate], rel=1e-12)
    reference = config_of(digits_root, "pretrain", "pretrain.base_lr=2e-3", "pretrain.batch_size=32", *words)
    assert learning_rate.peak_lr(reference) == 2e-3 * 32 / 256


@pytest.mark.parametrize("init", ["authors", "xavier"])
def test_at_its_reference_mup_is_the_fixed_rate(digits_root: Path, init: str) -> None:
    """Groups and weights bit by bit: a study may be begun at its reference without the rule."""
    words = (f"model.weight_init={init}", "model.qk_norm=weight", "model.mlp=swiglu")
    plain, scaled = built(digits_root, *words), built(digits_root, *words, *MUP)
    assert groups_of(plain) == groups_of(scaled)
    theirs = plain.module.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in scaled.module.state_dict().items())


def test_rates_follow_table_8(digits_root: Path) -> None:
    """At four times the width: matrices of the blocks (hidden weights) at 1/4 of the rate, all else as before.

    Rate x weight decay of the matrices is as stated, whatever the width.
    """
    words = (
        "pretrain.base_lr=2.56e-2",
        "pretrain.batch_size=16",
        "pretrain.mask_ratio=0.4",
        "model.pos_embed=absolute",
    )
    groups = groups_of(built(digits_root, *words, *as_wide(128), *MUP))
    hidden = {f"blocks.{block}.{name}" for block in range(3) for name in MATRICES}
    assert hidden < groups.keys()
    assert {"patch_embed.proj.weight", "cls_token", "pos_embed", "mask_token", "norm.weight"} < groups.keys() - hidden
    for name, (rate, decay) in groups.items():
        assert rate == pytest.approx(1.6e-3 / (4 if name in hidden else 1), rel=1e-12), name
        assert decay == 0 or rate * decay == pytest.approx(1.6e-3 * 0.05, rel=1e-12), name


@pytest.mark.parametrize("init", ["authors", "xavier"])
def test_norms_of_keys_are_no_matrices(digits_root: Path, init: str) -> None:
    """Their weights begin at 1 and learn at the stated rate, at any width."""
    task = built(digits_root, "model.qk_norm=weight", f"model.weight_init={init}", *as_wide(128), *MUP)
    groups, weights = groups_of(task), task.backbone.state_dict()
    for name in (f"blocks.{block}.attn.k_norm.weight" for block in range(3)):
        assert groups[name][0] == groups["norm.weight"][0]
        assert weights[name].eq(1).all()


@pytest.mark.parametrize("init", ["authors", "xavier"])
def test_initial_sizes_follow_table_8(digits_root: Path, init: str) -> None:
    """Of 8 times wider weights: hidden ones have 1/sqrt(8) of the standard deviation, input weights the same."""
    words = (f"model.weight_init={init}", "model.depth=1", *MUP)
    small, large = (built(digits_root, *words, *as_wide(width)).backbone.state_dict() for width in (32, 256))
    for name in (f"blocks.0.{matrix}" for matrix in MATRICES):
        assert large[name].std().item() == pytest.approx(small[name].std().item() / math.sqrt(8), rel=0.06), name
    for name in ("patch_embed.proj.weight", "cls_token"):
        assert large[name].std().item() == pytest.approx(small[name].std().item(), rel=0.3 if "cls" in name else 0.03)


def changes(root: Path, *words: str, steps: int = 4) -> tuple[float, float]:
    """How far some steps at a constant rate move the residual stream and the last block's attention scores (RMS)."""
    task = built(root, "model.depth=2", "model.layer_scale_init=1", "pretrain.base_lr=1e-2", *words)
    optimizer = task.build_optimizer()
    images = torch.stack([task.eval_data[0, index].float() / 127.5 - 1 for index in range(8)])
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        return lambda _module, inputs, output: seen.update({name: (inputs[0] if name == "stream" else output).detach()})

    attention = task.backbone.blocks[-1].attn
    hooks: dict[str, nn.Module] = {"stream": task.backbone.norm, "q": attention.q_norm, "k": attention.k_norm}  # type: ignore[dict-item, union-attr]
    for name, module in hooks.items():
        module.register_forward_hook(keep(name))  # type: ignore[arg-type]
    task.backbone.eval()  # no draws of RoPE's scale

    def observed() -> tuple[Tensor, Tensor]:
        return seen["stream"], seen["q"] @ seen["k"].transpose(-1, -2) / math.sqrt(seen["q"].shape[-1])

    loss = task.module(images)
    before = observed()
    for _ in range(steps):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss = task.module(images)
    stream, scores = ((now - then).square().mean().sqrt().item() for now, then in zip(observed(), before, strict=True))
    return stream, scores


def growth(values: list[float]) -> float:
    """The exponent of a power law in the width."""
    return float(np.polyfit(np.log(WIDTHS), np.log(values), 1)[0])


@pytest.mark.parametrize("init", ["authors", "xavier"])
def test_coordinate_check(digits_root: Path, init: str) -> None:
    """What a few steps change in the residual stream does not depend on the width under mup, and grows with it under
    one fixed rate: the check by which Tensor Programs V tells a right parametrisation."""
    exponents = []
    for rule in (MUP, ()):
        words = (f"model.weight_init={init}", *rule)
        exponents.append(growth([changes(digits_root, *words, *as_wide(width))[0] for width in WIDTHS]))
    scaled, fixed = exponents
    assert abs(scaled) < 0.1
    assert fixed > 0.4


def test_attention_scores_of_wider_heads_do_not_grow(digits_root: Path) -> None:
    """Two heads at every width: scores / d, and a rate of the norm's weight that goes with it, keep their changes."""
    words = ("model.weight_init=xavier", "model.qk_norm=weight")
    scaled, fixed = (
        growth([changes(digits_root, *words, *rule, *as_wide(width, heads=2))[1] for width in WIDTHS])
        for rule in (MUP, ())
    )
    assert scaled < 0.1
    assert fixed > scaled + 0.3


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["pretrain.lr_rule=mup"], "pretrain.lr_reference: pretrain.lr_rule=mup needs it"),
        (
            ["pretrain.lr_rule=power", "pretrain.lr_reference=nano"],
            "pretrain.lr_exponent: pretrain.lr_rule=power needs",
        ),
        (["pretrain.lr_reference=nano"], "pretrain.lr_reference=nano: pretrain.lr_rule=fixed does not use it"),
        ([*MUP, "pretrain.lr_exponent=-0.2"], "pretrain.lr_exponent=-0.2: pretrain.lr_rule=mup does not use it"),
        ([*MUP, "pretrain.lr_reference=nanoo"], "did you mean 'nano'?"),
        ([*MUP, "model=micro"], "heads are 32 wide here and 16 in pretrain.lr_reference=femto; give model.num_heads=6"),
    ],
)
def test_a_rule_that_is_not_whole_is_one_line(words: list[str], complaint: str) -> None:
    """A rule without its reference would silently be another rule."""
    with pytest.raises(ConfigError) as caught:
        parse(words)
    (problem,) = caught.value.problems
    assert complaint in problem


def test_no_rule_reaches_what_does_no_pretraining(digits_root: Path) -> None:
    """A control from random weights starts from the same weights under every rule, and is the same run."""
    plain = config_of(digits_root, "classify", "init=scratch", "model=nano")
    ruled = config_of(digits_root, "classify", "init=scratch", "model=nano", *MUP)
    assert plain.run_id == ruled.run_id
    assert config_of(digits_root, "pretrain", *MUP).run_id != config_of(digits_root, "pretrain").run_id
