"""Muon against its description, written out with singular values, and against torch's own."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import muon_ranks
import pytest
import torch
from ranks import run_on_ranks
from torch.utils.flop_counter import FlopCounterMode

from nepa_scale.config.overrides import parse
from nepa_scale.config.schema import RunConfig
from nepa_scale.config.task_settings import PretrainConfig
from nepa_scale.optim.muon import MatrixPart, Muon, orthogonalised
from nepa_scale.optim.optimizer import build_optimizer
from nepa_scale.placement import ds_config
from nepa_scale.placement.costs import orthogonalising_flops
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.planner import place
from nepa_scale.utils.errors import ConfigError


@pytest.mark.parametrize("shape", [(5, 5), (4, 12), (12, 4), (1, 3)])
def test_newton_schulz_is_a_polynomial_of_singular_values(shape: tuple[int, int]) -> None:
    """The iteration of matrix products is the quintic applied to each singular value of the normed matrix."""
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(orthogonalised(matrix), muon_ranks.by_singular_values(matrix), rtol=1e-9, atol=1e-9)
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


@pytest.mark.parametrize("words", [["model.size=femto"], ["model.size=pico", "model.mlp=swiglu"]])
def test_planned_flops_of_orthogonalising_are_counted_ones(words: list[str]) -> None:
    """What a plan prices is what PyTorch's counter finds while the model's matrices are orthogonalised."""
    config = parse([*words, "pretrain.optimizer=muon"])
    groups = build_optimizer(muon_ranks.module_of(config), config.pretrain).param_groups
    matrices = [matrix for group in groups if group["orthogonalised"] for matrix in group["params"]]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for matrix in matrices:
            orthogonalised(matrix)
    assert orthogonalising_flops(config, "pretrain") == counter.get_total_flops() > 0
    assert orthogonalising_flops(parse(words), "pretrain") == 0


def test_a_step_is_torchs_own() -> None:
    """torch.optim.Muon, which orthogonalises in bf16, moves a matrix alike within that format's three digits."""
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 6), [torch.randn(8, 6) for _ in range(3)]
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    own = Muon([{"params": [ours], "orthogonalised": True}], momentum=0.95, lr=0.1, weight_decay=0.1)
    own.place({ours: [MatrixPart((8, 6), 0, 48, 0)]}, sharded=False)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        own.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02 * 0.1 * 3)


def test_block_matrices_are_muons_and_the_rest_adamws() -> None:
    """Four matrices a block; class token, patch convolution, norms, biases and LayerScale stay with AdamW, with the
    groups' rates and decays."""
    config = parse(["model.size=femto", "pretrain.optimizer=muon"])
    module = muon_ranks.module_of(config)
    names = {parameter: name for name, parameter in module.named_parameters()}
    optimizer = build_optimizer(module, config.pretrain)
    groups: dict[bool, set[str]] = {True: set(), False: set()}
    for group in optimizer.param_groups:
        assert group["lr"] == config.pretrain.peak_lr
        groups[group["orthogonalised"]] |= {names[parameter] for parameter in group["params"]}
    kinds = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert groups[True] == {f"backbone.blocks.{i}.{kind}.weight" for i in range(3) for kind in kinds}
    assert groups[True] | groups[False] == set(names.values())


@cache
def plain(steps: int, world_size: int) -> dict[str, Any]:
    """Muon written out; all stages are held to the same."""
    return muon_ranks.plain(steps, world_size)


@pytest.mark.parametrize(
    ("steps", "world_size", "accumulation"),
    [
        pytest.param(12, 1, 1, marks=pytest.mark.slow(seconds=3)),
        pytest.param(100, 2, 2, marks=pytest.mark.slow),
    ],
)
def test_every_stage_takes_plain_muons_steps(steps: int, world_size: int, accumulation: int) -> None:
    """Losses to 1e-5 at every step, weights to 1e-4 at the end, at stages 0 to 3, with clipping and accumulation: the
    momentum moves once a step, and gradients are clipped before it."""
    expected = plain(steps, world_size)
    printed, *_ = run_on_ranks("muon_ranks.py", [str(steps), "0,1,2,3", str(accumulation)], world_size=world_size)
    found = json.loads(printed.strip().splitlines()[-1])
    assert steps < 100 or expected["losses"][-1] < expected["losses"][0] - 0.02, "it must learn"
    for stage, seen in found.items():
        assert seen["losses"] == pytest.approx(expected["losses"], abs=1e-5), stage
        for own, other in zip(seen["weights"], expected["weights"], strict=True):
            assert own == pytest.approx(other, abs=1e-4), stage


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("task=probe", "probe.optimizer=muon"), "probe.optimizer=muon: probe trains no block"),
        (("pretrain.optimizer=muon", "pretrain.lr_rule=mup", "pretrain.lr_reference=nano"), "lr_rule=mup is a rule"),
    ],
)
def test_what_muon_cannot_train_is_refused(words: tuple[str, ...], complaint: str) -> None:
    """One line that says what would be right, before work starts."""
    with pytest.raises(ConfigError) as raised:
        parse(list(words))
    [problem] = raised.value.problems
    assert complaint in problem


def test_muons_states_are_not_offloaded() -> None:
    """The file that offloads is refused, and the plan never takes it by itself."""
    config = parse(["pretrain.optimizer=muon", "engine.ds_config=zero3_offload"])
    assert any("does not go with pretrain.optimizer=muon" in line for line in ds_config.check(config, "pretrain"))
    gpu = DeviceMemory(6 * 2**30, "of a test", on_gpu=True)
    config = parse(["model.size=giant", "pretrain.optimizer=muon"])
    assert not ds_config.offloads(place(config, "pretrain", 2, gpu).ds_config)


def test_identity_names_the_optimizer_where_it_is_not_adamw() -> None:
    """Earlier runs keep their names; a run with Muon has another, and its momentum is part of it."""
    names = {RunConfig().run_id} | {
        parse(words).run_id
        for words in (["pretrain.optimizer=muon"], ["pretrain.optimizer=muon", "pretrain.momentum=0.9"])
    }
    assert len(names) == 3
    assert PretrainConfig().optimizer == "adamw"


def test_refusal_reaches_the_planner() -> None:
    """A stated file that offloads ends in one line."""
    config = parse(["pretrain.optimizer=muon", "engine.ds_config=zero3_offload"])
    placement = place(config, "pretrain", 1, DeviceMemory(None, "of a test", on_gpu=True))
    with pytest.raises(ConfigError, match="drop it, or give adamw"):
        ds_config.resolve(config, "pretrain", placement)
