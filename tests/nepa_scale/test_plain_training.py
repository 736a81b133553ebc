"""Two hundred steps of pre-training beside the same recipe written out in plain PyTorch, at ZeRO stages 0, 2 and 3.

The plain side shares the initial weights, the augmented batches and the seed of each step's RoPE scale with the run
under test. Model, loss, clipping, AdamW, schedule and moving average are its own, in float64.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from launching import losses, rows, train
from plain_nepa import PlainNepa
from torch import Tensor

from nepa_scale.config.ladder import Architecture
from nepa_scale.config.overrides import parse
from nepa_scale.config.schema import RunConfig
from nepa_scale.data.loader import train_loader
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.data.transforms import normalise
from nepa_scale.models.build import build_backbone
from nepa_scale.models.nepa_vit import NepaViT
from nepa_scale.tasks.pretrain import Pretrain

pytestmark = pytest.mark.slow
STEPS, BATCH, SEED = 200, 16, 0
PEAK, WARMUP, DECAY, CLIP, BETAS, EPS = 2.5e-3, 20, 0.05, 0.1, (0.9, 0.95), 1e-8
EMA = 0.98


def words(data_root: Path) -> list[str]:
    """The recipe as settings: the paper's form, at a size for minutes."""
    return [
        "task=pretrain",
        f"seed={SEED}",
        f"data.root={data_root}",
        "model.size=femto",
        "model.mlp=swiglu",
        "model.qk_norm=weight",
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        "model.rope_rescale=2.0",
        f"pretrain.steps={STEPS}",
        f"pretrain.batch_size={BATCH}",
        f"pretrain.base_lr={PEAK * 256 / BATCH}",
        f"pretrain.warmup={WARMUP / STEPS}",
        f"pretrain.weight_decay={DECAY}",
        f"pretrain.clip_grad_norm={CLIP}",
        f"pretrain.ema_decay={EMA}",
        "pretrain.crop_scale_min=0.3",
        "pretrain.hflip=0.5",
        "log.every=1",
        "log.tensorboard=false",
        "checkpoint.every=0",
    ]


@dataclass
class Plain:
    """What the plain run found: losses and gradient norms of all steps, and the moving average at the end."""

    losses: list[float]
    norms: list[float]
    averages: dict[str, Tensor]


def plain_copy(backbone: NepaViT, arch: Architecture) -> PlainNepa:
    """The backbone's weights in the plain model."""
    return PlainNepa(
        backbone,
        width=arch.embed_dim,
        depth=arch.depth,
        heads=arch.num_heads,
        patch=arch.patch_size,
        class_token=True,
        absolute_tokens=None,
        hidden=arch.mlp_hidden,
        gated=True,
        qk_norm="weight",
    )


def rate(step: int) -> float:
    """Linear from 0 over the warm-up, then half a cosine."""
    if step < WARMUP:
        return PEAK * step / WARMUP
    return PEAK * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def rope_scale(step: int) -> float:
    """exp(u), u uniform in [-ln 2, ln 2] by the seed that belongs to the step."""
    seed = int(np.random.SeedSequence([SEED, step]).generate_state(1)[0])
    limit = math.log(2)
    return math.exp(torch.empty(1).uniform_(-limit, limit, generator=torch.Generator().manual_seed(seed)).item())


def loss_of(model: PlainNepa, images: Tensor, scale: float) -> Tensor:
    """Minus the mean cosine of each output with the next input embedding, which gets no gradient."""
    z, z_hat = model(images, True, scale)
    target, output = z[:, 1:].detach(), z_hat[:, :-1]
    return -((output * target).sum(-1) / (output.norm(dim=-1) * target.norm(dim=-1))).mean()


def plain_run(config: RunConfig) -> Plain:
    """The recipe step by step."""
    torch.manual_seed(SEED)
    task = Pretrain(config)
    model = plain_copy(task.backbone, config.model.architecture())
    loader = train_loader(
        task.train_data,
        batch_size=BATCH,
        micro_batch_size=BATCH,
        seed=SEED,
        start_step=0,
        total_steps=STEPS,
        rank=0,
        world_size=1,
        num_workers=0,
    )
    parameters = dict(model.named_parameters())
    first = {name: torch.zeros_like(value) for name, value in parameters.items()}
    second = {name: torch.zeros_like(value) for name, value in parameters.items()}
    found = Plain([], [], {})
    for step, loaded in enumerate(loader):
        loss = loss_of(model, normalise(loaded.batch), rope_scale(step))
        gradients = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients.values()))
        found.losses.append(loss.item())
        found.norms.append(norm)
        with torch.no_grad():
            for name, value in parameters.items():
                gradient = gradients[name] * min(1.0, CLIP / (norm + 1e-6))
                first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * gradient
                second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * gradient.square()
                mean, square = first[name] / (1 - BETAS[0] ** (step + 1)), second[name] / (1 - BETAS[1] ** (step + 1))
                decay = DECAY if value.ndim > 1 else 0.0
                value.sub_(rate(step) * (decay * value + mean / (square.sqrt() + EPS)))
                old = found.averages.get(name, value)
                found.averages[name] = EMA * old + (1 - EMA) * value
    return found


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digit scenes."""
    root = tmp_path_factory.mktemp("data")
    write_digits(root, num_train=96, num_validation=20)
    return root


@pytest.fixture(scope="module")
def plain(data_root: Path) -> Plain:
    """The plain run; all stages are held to the same one."""
    return plain_run(parse(words(data_root)))


@pytest.mark.parametrize(("stage", "world_size"), [(0, 1), (3, 2), pytest.param(2, 2, marks=pytest.mark.long)])
def test_two_hundred_steps_follow_the_plain_recipe(
    stage: int, world_size: int, data_root: Path, plain: Plain, tmp_path: Path
) -> None:
    """Loss to 1e-4 at every step, gradient norm and rate too, and at the end the moving average of every weight."""
    command = words(data_root)
    train([*command, f"run_dir={tmp_path}", f"engine.ds_config=zero{stage}"], world_size=world_size)
    task_dir = tmp_path / "pretrain"
    assert losses(task_dir) == pytest.approx(plain.losses, rel=1e-4)
    logged = [row for row in rows(task_dir) if "grad_norm" in row]
    assert [row["grad_norm"] for row in logged] == pytest.approx(plain.norms, rel=1e-4)
    assert [row["lr"] for row in logged] == pytest.approx([rate(step) for step in range(STEPS)], abs=1e-12)
    assert 20 < sum(norm > CLIP for norm in plain.norms) < STEPS, "clipping must matter, and not always"
    assert plain.losses[-1] < plain.losses[0] - 0.2
    arch = parse(command).model.architecture()
    backbone = build_backbone(arch, 32)
    backbone.load_state_dict(safetensors.torch.load_file(task_dir / "model_ema.safetensors"))
    averages = dict(plain_copy(backbone, arch).named_parameters())
    for name, expected in plain.averages.items():
        torch.testing.assert_close(averages[name].detach(), expected, rtol=1e-4, atol=1e-6, msg=name)
    metrics = json.loads((task_dir / "result.json").read_text())["metrics"]
    assert metrics["ema_loss"] != metrics["loss"]
