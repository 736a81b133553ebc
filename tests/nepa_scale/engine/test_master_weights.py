"""The moving average of the weights: its arithmetic, and what whole trainings leave of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from launching import NARROW, losses, rows, train
from torch import Tensor, nn

from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.engine.master_weights import MasterWeights, WeightAverage

STEPS, HALF = 8, 4


def two_layers() -> nn.Module:
    """A small module whose first layer is frozen."""
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    return module


def walked(module: nn.Module, average: WeightAverage, steps: int) -> list[Tensor]:
    """Move the trained weights at random and average them; the values that each step left."""
    weight, values = module[1].weight, []  # type: ignore[index]
    for _ in range(steps):
        with torch.no_grad():
            weight += torch.randn_like(weight)
        average.update()
        values.append(weight.detach().clone())
    return values


def test_average_is_the_sum_it_should_be() -> None:
    """After n steps: d^(n-1) of the first weights and (1 - d) d^(n-k) of the k-th, k from 2 on."""
    torch.manual_seed(0)
    module = two_layers()
    average = WeightAverage(MasterWeights(module, None, 0), 0.8)
    values = walked(module, average, 7)
    shares = [0.8**6] + [0.2 * 0.8 ** (7 - k) for k in range(2, 8)]
    assert sum(shares) == pytest.approx(1.0)
    expected = sum(share * value.double() for share, value in zip(shares, values, strict=True))
    with average.in_place():
        torch.testing.assert_close(module[1].weight.double(), expected, rtol=1e-6, atol=1e-6)  # type: ignore[index]


def test_weights_come_back_exactly() -> None:
    """Evaluating the average leaves the weights, frozen ones included, and the average bit for bit as they were."""
    module = two_layers()
    average = WeightAverage(MasterWeights(module, None, 0), 0.9)
    walked(module, average, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    seen = []
    for _ in range(2):
        with average.in_place():
            seen.append(module[1].weight.detach().clone())  # type: ignore[index]
            assert torch.equal(module[0].weight, before["0.weight"])  # type: ignore[index]
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(*seen)
    assert not torch.equal(seen[0], before["1.weight"])


def test_an_error_waits_for_no_other_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one rank meets an error while the averages are in place, the others are not there for a collective: the
    error comes out first."""
    module = two_layers()
    average = WeightAverage(MasterWeights(module, None, 0), 0.9)
    walked(module, average, 2)
    with pytest.raises(ZeroDivisionError), average.in_place():
        monkeypatch.setattr(MasterWeights, "overwriting", lambda _: pytest.fail("a collective"))
        raise ZeroDivisionError


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few digit scenes."""
    root = tmp_path_factory.mktemp("data")
    write_digits(root, num_train=64, num_validation=20)
    return root


def words(data_root: Path, run_dir: Path, task: str, *extra: str) -> list[str]:
    """Eight steps that save at the fourth."""
    return [
        f"task={task}",
        "model.size=femto",
        *NARROW,
        "model.weight_init=xavier",
        "model.layer_scale_init=0.1",
        f"data.root={data_root}",
        f"run_dir={run_dir}",
        f"{task}.steps={STEPS}",
        f"{task}.batch_size=16",
        f"{task}.base_lr=3e-2",
        f"{task}.ema_decay=0.7",
        "log.every=1",
        "log.tensorboard=false",
        f"checkpoint.every={HALF}",
        "checkpoint.keep=2",
        *extra,
    ]


@pytest.fixture(scope="module")
def pretrained(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with pre-trained weights and their average."""
    run_dir = tmp_path_factory.mktemp("pretrained")
    train(words(data_root, run_dir, "pretrain"))
    return run_dir


def released(pretrained: Path) -> list[str]:
    """Fine-tuning in the way of the released recipe: many groups, one of them frozen, QK-norm with a weight."""
    return [
        f"init={pretrained}",
        "classify.init_ema=true",
        "classify.qk_norm=weight",
        "classify.freeze_patch_embed=true",
        "classify.layer_decay=0.6",
        "classify.layer_warmup=true",
        "classify.warmup=0.5",
        "classify.head_lr=1e-2",
    ]


def files(task_dir: Path) -> list[bytes]:
    """The weights and their average as they lie on disk."""
    return [(task_dir / name).read_bytes() for name in ("model.safetensors", "model_ema.safetensors")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "stage", "precision", "world_size"),
    [
        ("classify", 2, "bf16", 2),
        ("classify", 3, "fp32", 2),
    ],
)
def test_continued_run_is_the_same_run(
    task: str, stage: int, precision: str, world_size: int, data_root: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Four steps, a restart and four more leave the same weights and average, bit by bit, as eight in one go.

    The whole run is evaluated after every step and the other only at the end: that changes nothing either.
    """
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    extra = [f"engine.ds_config=zero{stage}", f"engine.precision={precision}"]
    extra += released(pretrained) if task == "classify" else []
    train(
        words(data_root, whole, task, f"{task}.eval_every=1", *extra, f"checkpoint.keep={STEPS}"), world_size=world_size
    )
    shutil.copytree(whole, parts)
    for name in ("model.safetensors", "model_ema.safetensors", "result.json"):
        (parts / task / name).unlink()
    for checkpoint in (parts / task / "checkpoints").glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) > HALF:
            shutil.rmtree(checkpoint)
    assert f"continuing from step {HALF} of {STEPS}" in train(
        words(data_root, parts, task, *extra), world_size=world_size
    )
    assert files(parts / task) == files(whole / task)
    weights, averages = files(whole / task)
    assert weights != averages


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision", "world_size"), [(1, "bf16", 2), (3, "bf16", 2), (3, "fp32", 1)])
def test_average_without_memory_is_the_weights(
    stage: int, precision: str, world_size: int, data_root: Path, tmp_path: Path
) -> None:
    """With a decay of next to nothing the average's figures and file are the weights' own: what the module computes
    with under ``in_place`` are the averages, in the run's number format, on every rank."""
    extra = [f"engine.ds_config=zero{stage}", f"engine.precision={precision}", "pretrain.ema_decay=1e-12"]
    train(words(data_root, tmp_path, "pretrain", *extra), world_size=world_size)
    weights, averages = files(tmp_path / "pretrain")
    assert weights == averages
    result = json.loads((tmp_path / "pretrain" / "result.json").read_text())
    for figures in (result["metrics"], result["details"]):
        plain = {name: value for name, value in figures.items() if not name.startswith("ema_")}
        assert {name.removeprefix("ema_"): value for name, value in figures.items() if name not in plain} == plain


@pytest.mark.slow
def test_stages_agree_on_fine_tuning_in_many_groups(data_root: Path, tmp_path: Path) -> None:
    """Frozen weights and a group for each block: ZeRO-1 and -3 on two ranks train as one process does.

    Without a class token nothing before the first block is trained, so that its input has no gradient; ZeRO-3 gathers
    blocks as a whole and also computes them again.
    """
    runs, pretrained = [], tmp_path / "pretrained"
    train(words(data_root, pretrained, "pretrain", "model.class_token=false"))
    for stage, world_size in ((0, 1), (1, 2), (3, 2)):
        run_dir = tmp_path / str(stage)
        extra = [f"engine.ds_config=zero{stage}", *released(pretrained), "model.class_token=false"]
        extra.append(f"engine.activation_checkpointing={'true' if stage == 3 else 'false'}")
        train(words(data_root, run_dir, "classify", *extra), world_size=world_size)
        runs.append(run_dir / "classify")
    before = safetensors.torch.load_file(pretrained / "pretrain" / "model_ema.safetensors")
    for task_dir in runs:
        assert losses(task_dir) == pytest.approx(losses(runs[0]), rel=1e-4)
        assert [row.get("lr") for row in rows(task_dir)] == [row.get("lr") for row in rows(runs[0])]
        after = safetensors.torch.load_file(task_dir / "model.safetensors")
        for name in ("patch_embed.proj.weight", "patch_embed.proj.bias"):
            assert torch.equal(after[name], before[name])
        assert not torch.equal(after["blocks.0.attn.proj.weight"], before["blocks.0.attn.proj.weight"])
        assert after["blocks.0.attn.q_norm.weight"].shape == (8,)
        average = safetensors.torch.load_file(task_dir / "model_ema.safetensors")
        expected = safetensors.torch.load_file(runs[0] / "model_ema.safetensors")
        for name, value in average.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)
