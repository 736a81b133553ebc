"""The largest sizes: planned, counted on ``meta``, and stepped for real on ranks that never hold all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launching import REPOSITORY, clean_environment
from processes import Run

from nepa_scale.config import ladder
from nepa_scale.config.overrides import parse
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.placement import costs
from nepa_scale.placement.devices import DeviceMemory
from nepa_scale.placement.planner import place

LARGE = ["huge", "giant", "gigantic", "enormous", "7b"]
STATE_BYTES = 16  # for each parameter: weight, gradient and AdamW's two moments in fp32


@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
@pytest.mark.parametrize("size", LARGE)
def test_large_models_on_meta_hold_what_the_ladder_says(size: str, mlp: ladder.MlpKind) -> None:
    """At 224 pixels and patches of 14 the module, built without memory, has exactly the planned parameters."""
    arch = ladder.architecture(size, 14, mlp=mlp)
    shape = {"embed_dim": arch.embed_dim, "depth": arch.depth, "num_heads": arch.num_heads}
    hidden = arch.mlp_hidden
    model = NepaViT(**shape, patch_size=14, mlp=mlp, mlp_hidden=hidden, device="meta")  # type: ignore[arg-type]
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) == ladder.total_params(arch, 224)
    outside = ("cls_token", "patch_embed.")
    inside = [each.numel() for name, each in model.named_parameters() if not name.startswith(outside)]
    assert sum(inside) == ladder.backbone_params(arch)


@pytest.mark.parametrize(
    ("size", "backbone"),
    [
        ("huge", 32 * (12 * 1280**2 + 15 * 1280) + 2560),
        ("giant", 40 * (12 * 1536**2 + 15 * 1536) + 3072),
        ("7b", 40 * (10 * 4096**2 + 14 * 4096) + 8192),
    ],
)
def test_large_models_are_planned(digits_root: Path, size: str, backbone: int) -> None:
    """Parameters by hand: each block has 12 D^2 weights and 13 D biases and norms beside 2 D of LayerScale; that of
    7b, whose MLP is 3 D wide, 10 D^2 and 12 D. Under
    ZeRO-3 on 64 devices each holds a 64th of the weights, their fp32 copy and AdamW's moments: 16 bytes a parameter."""
    words = [f"data.root={digits_root}", f"model.size={size}", "model.patch_size=14", "pretrain.image_size=224"]
    config = parse([*words, "pretrain.batch_size=64", "engine.ds_config=zero3"])
    cost = costs.task_cost(config, "pretrain")
    assert cost.params_backbone == backbone
    assert cost.params_total == backbone + (3 * 14**2 + 1 + 1) * config.model.architecture().embed_dim
    planned = place(config, "pretrain", 64, DeviceMemory(None, "not asked", on_gpu=False)).memory
    assert planned.states == pytest.approx(STATE_BYTES * cost.params_total / 64, rel=0.02)


@pytest.mark.parametrize("size", LARGE)
def test_dry_run_of_large_models_needs_no_torch(train: Run, digits_root: Path, size: str) -> None:
    """The training command says what the run would cost before anything heavy is imported."""
    done = train(
        f"data.root={digits_root}",
        f"model.size={size}",
        "model.patch_size=14",
        "pretrain.image_size=224",
        "pretrain.batch_size=64",
        "engine.ds_config=zero3",
        "dry_run=true",
    )
    assert done.returncode == 0, done.stderr
    assert f"{ladder.total_params(ladder.architecture(size, 14), 224):,}" in done.stdout
    assert "ZeRO stage 3" in done.stdout


def stepped(*words: str) -> list[dict[str, Any]]:
    """What the benchmark found on each rank."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "giant.py"), "--json", *words],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return rows


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(
    ("size", "depth", "built", "switches"),
    [
        ("huge", 4, 4, ["engine.activation_checkpointing=true"]),
        pytest.param("7b", 1, 7, [], marks=pytest.mark.long),  # of a single block one tensor is 30 % of all weights
    ],
)
def test_large_models_take_a_step_on_two_ranks(size: str, depth: int, built: float, switches: list[str]) -> None:
    """A step at full width and reduced depth, saving and export included, equals that of one process at stage 0, and
    no rank ever has the whole fp32 state, or while it builds more than ``built`` bytes of each parameter."""
    common = ["--size", size, "--depth", str(depth)]
    ranks = stepped(*common, "--ranks", "2", *switches)
    (alone,) = stepped(*common, "--ranks", "1", "engine.ds_config=zero0")
    assert alone["params"] == ladder.total_params(ladder.architecture(size, 14, depth=depth), 56)
    for row in ranks:
        assert row["params"] == alone["params"]
        for figure in ("loss", "grad_norm", "eval_loss"):
            assert row[figure] == pytest.approx(alone[figure], abs=1e-4), figure
        assert row["build"] < built
        assert max(row[phase] for phase in ("engine", "step", "save", "export")) < STATE_BYTES
        assert 0 < row["live"] < 0.5
    assert alone["step"] >= STATE_BYTES  # what it is measured against: all of it in one process
