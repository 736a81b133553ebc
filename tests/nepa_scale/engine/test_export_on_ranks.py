"""Weights exported by two ranks, under every ZeRO stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from ranks import run_on_ranks
from small_tasks import config_of

from nepa_scale.tasks.pretrain import Pretrain
from nepa_scale.tasks.segment import Segment

SWITCHES = {
    "pretrain": ["pretrain.mask_ratio=0.4", "model.mlp=swiglu", "model.qk_norm=weight"],
    "segment": ["init=scratch"],
}


@pytest.mark.parametrize("task", ["pretrain", pytest.param("segment", marks=pytest.mark.slow)])
def test_every_stage_exports_the_module(digits_root: Path, tmp_path: Path, task: str) -> None:
    """The file has the module's own tensors bit by bit, by the names and in the order that the task gives them; an
    export without room ends on both ranks with the file's name, and leaves no file."""
    config = config_of(digits_root, task, *SWITCHES[task])
    words = [f"data.root={digits_root}", f"task={task}", "model=femto", "segment.channels=8", *SWITCHES[task]]
    words += [f"{task}.image_size=48", "log.tensorboard=false"]
    outputs = run_on_ranks("exports.py", [str(tmp_path), json.dumps(words)], world_size=2)
    torch.manual_seed(config.seed)
    built = Pretrain(config) if task == "pretrain" else Segment(config, None)
    expected = built.exported(built.module.state_dict())
    for stage in range(4):
        found = safetensors.torch.load_file(tmp_path / f"stage{stage}.safetensors")
        assert found.keys() == expected.keys(), stage
        for name, value in expected.items():
            assert torch.equal(found[name], value), (stage, name)
    for output in outputs:
        assert f"{tmp_path / 'full.safetensors'}: cannot be written: File too large" in output
    assert not [each for each in tmp_path.iterdir() if each.name.startswith((".full", "full"))]
