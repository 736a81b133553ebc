"""Tasks built shard by shard under ZeRO-3: every tensor is that of the build in one piece, and none is forgotten."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from nan_filled import NanFilled
from ranks import run_on_ranks
from torch import Tensor, nn

from nepa_scale.config.overrides import parse
from nepa_scale.config.registry import TASKS
from nepa_scale.models.build import build_backbone
from nepa_scale.tasks.task import Task
from nepa_scale.training.runner import build_task

RANKS = 2
WIDE = "pretrain model.size=mini model.depth=2 model.weight_init={}"
CASES = [
    WIDE.format("authors"),
    WIDE.format("xavier"),
    "pretrain model.mlp=swiglu model.mlp_hidden=50 model.qk_norm=weight pretrain.mask_ratio=0.4",
    "pretrain model.weight_init=xavier model.pos_embed=absolute model.layer_scale=false engine.precision=bf16",
    "pretrain model.size=mini model.depth=2 model.qk_norm=weight pretrain.lr_rule=mup pretrain.lr_reference=femto",
    "classify init=scratch model.weight_init=xavier classify.drop_path_rate=0.1",
    "classify classify.layer_decay=0.6 classify.head_lr=1e-2 classify.freeze_patch_embed=true classify.qk_norm=weight",
    "segment init=scratch model.patch_size=16",
    "segment segment.layer_decay=0.6 engine.precision=bf16",
    "probe probe.layers=all probe.attentive=true probe.weight_decay=0.1",
]


def words_of(case: str, root: Path) -> list[str]:
    """The configuration of a case, on images of 48 pixels."""
    task, *switches = case.split()
    sizes = [f"{each}.image_size=48" for each in TASKS]
    common = [f"data.root={root}", f"task={task}", "engine.ds_config=zero3", "segment.channels=8", *sizes]
    return [*common, *([] if "model.size" in case else ["model=femto"]), *switches]


@pytest.fixture(scope="module")
def built(digits_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where two ranks have left what they built, beside pre-trained weights that some started from."""
    folder = tmp_path_factory.mktemp("built")
    backbone = build_backbone(parse(["model=femto"]).model.architecture(), 48)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.uniform_(-1, 1)
    (folder / "pretrain").mkdir()
    safetensors.torch.save_file(backbone.state_dict(), folder / "pretrain" / "model.safetensors")
    cases = [words_of(case, digits_root) for case in CASES]
    run_on_ranks("sharded_builds.py", [str(folder), json.dumps(cases)], world_size=RANKS)
    return folder


def of_case(built: Path, case: str, rank: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors that a rank gathered, and its facts."""
    stem = f"{CASES.index(case)}-{rank}"
    return safetensors.torch.load_file(built / f"{stem}.safetensors"), json.loads((built / f"{stem}.json").read_text())


def plain(case: str, root: Path, folder: Path) -> Task:
    """The same task built in one piece in this process."""
    config = parse(words_of(case, root))
    torch.manual_seed(config.seed)
    return build_task(config, folder)


@pytest.mark.slow(seconds=6)
@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_a_build_in_one_piece(case: str, digits_root: Path, built: Path) -> None:
    """Every parameter and buffer, also those that no file keeps, bit by bit on every rank, although memory without
    values held NaN; the random numbers that follow are the same too."""
    task = plain(case, digits_root, built)
    next_number = torch.rand(1).item()
    dtype = torch.bfloat16 if "bf16" in case else torch.float32
    expected = {name: parameter.detach().to(dtype) for name, parameter in task.module.named_parameters()}
    expected |= {f"buffer:{name}": buffer for name, buffer in task.module.named_buffers()}
    for rank in range(RANKS):
        found, facts = of_case(built, case, rank)
        assert facts["partitioned"]
        assert facts["next_number"] == next_number
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name].dtype == value.dtype, name
            assert torch.equal(found[name], value), name
            assert value.isfinite().all(), name


@pytest.mark.slow(seconds=5)
@pytest.mark.parametrize("case", CASES)
def test_partitioned_weights_are_trained_by_the_same_rules(case: str, digits_root: Path, built: Path) -> None:
    """Weight decay, layer-wise rates, frozen weights and the count follow the shapes that the tensors had whole."""
    task = plain(case, digits_root, built)
    names = {id(parameter): name for name, parameter in task.module.named_parameters()}
    _, facts = of_case(built, case)
    groups = [
        {**group, "params": [names[id(parameter)] for parameter in group["params"]]}
        for group in task.build_optimizer().param_groups
    ]
    assert facts["groups"] == json.loads(json.dumps(groups))
    assert any(group["weight_decay"] for group in groups)
    assert any(not group["weight_decay"] for group in groups)
    assert facts["trained"] == [name for name, each in task.module.named_parameters() if each.requires_grad]
    assert facts["num_params"] == sum(parameter.numel() for parameter in task.module.parameters())


@pytest.mark.parametrize("init", ["authors", "xavier"])
def test_statistics_of_every_tensor(init: str, built: Path) -> None:
    """What each tensor's numbers should be, from the papers and not from the code: trunc-normal of std 0.02, or
    Xavier's uniform; zeros for biases, ones for norms, 1e-5 for LayerScale."""
    found, _ = of_case(built, WIDE.format(init))
    for name, value in found.items():
        if name.startswith("buffer:"):
            continue
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight")):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        elif "gamma_" in name:
            assert (value == torch.tensor(1e-5)).all(), name
        else:
            std, tolerance = expected_std(name, value, init), 5 / math.sqrt(2 * value.numel())
            assert value.std().item() == pytest.approx(std, rel=tolerance), name
            assert abs(value.mean().item()) < 5 * std / math.sqrt(value.numel()), name
            uniform = init == "xavier" and "cls_token" not in name
            assert (value.abs().max().item() < 1.7321 * std) is uniform, name


def expected_std(name: str, value: Tensor, init: str) -> float:
    """Xavier: sqrt(2 / (fan_in + fan_out)), the patch convolution taken as a linear layer; q, k and v as one."""
    if init == "authors" or "cls_token" in name:
        return 0.02
    fan_out, fan_in = value.flatten(1).shape
    return math.sqrt(2 / (fan_in + fan_out))


class Forgetful(nn.Module):
    """Leaves one of its parameters without values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.empty(2))


def test_forgotten_tensor_is_seen() -> None:
    """The fill that the builds ran under does show in a module that initialises nothing, and only there."""
    with NanFilled():
        module = Forgetful()
    assert module.scale.isnan().all()
    assert all(parameter.isfinite().all() for parameter in module.linear.parameters())
