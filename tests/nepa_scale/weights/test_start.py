"""Weights as the start of a run: refused early when they are of another model, loaded without their head."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from authors_nepa import AuthorsNepa, config_of
from launching import train as training
from processes import Run

from nepa_scale.config.ladder import Architecture
from nepa_scale.config.overrides import parse
from nepa_scale.data.preprocessing import PAPERS
from nepa_scale.models.build import build_backbone
from nepa_scale.tasks.finetune import load_backbone
from nepa_scale.utils.errors import WeightsError
from nepa_scale.utils.progress import logger
from nepa_scale.weights import timm_layout
from nepa_scale.weights.__main__ import main
from nepa_scale.weights.timm_layout import of_run


def test_other_model_is_refused_before_torch_is_imported(tmp_path: Path, train: Run) -> None:
    """The settings of an imported folder are compared in milliseconds, from its JSON alone."""
    folder = tmp_path / "imported"
    folder.mkdir()
    description = of_run(parse(["model=femto"]), "pretrain", PAPERS)
    (folder / "config.json").write_text(json.dumps(timm_layout.config_json(description)))
    (folder / "model.safetensors").write_bytes(b"")
    done = train("task=classify", f"init={folder}", "model=femto", "model.mlp_hidden=100")
    assert done.returncode == 2
    assert f"error: init={folder}: model.safetensors is of another model: model.mlp_hidden (128 there, 100 now)" in (
        done.stderr.splitlines()
    )


@pytest.mark.parametrize("labels", [0, 3])
def test_backbone_of_an_import_is_a_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, labels: int
) -> None:
    """Imported weights fill a backbone whole; the head of fine-tuned ones is left out with a line in the log."""
    theirs = AuthorsNepa(config_of(labels=labels)).save(tmp_path / "theirs")
    assert main(["import", str(theirs), str(tmp_path / "ours")]) == 0
    arch = Architecture(32, 2, 4, 4, mlp="gelu", mlp_hidden=128, qk_norm="plain", layer_scale=True)
    backbone, file = build_backbone(arch, 16), tmp_path / "ours" / "model.safetensors"
    monkeypatch.setattr(logger, "propagate", True)  # a training in this process may have turned it off
    with caplog.at_level(logging.WARNING):
        assert load_backbone(backbone, file) == bool(labels)
    stored = safetensors.torch.load_file(file)
    assert all(torch.equal(value, stored[name]) for name, value in backbone.state_dict().items())
    assert ("fine-tuned weights; their head is left out" in caplog.text) == bool(labels)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_no_start(tmp_path: Path, value: float) -> None:
    """NaN in the weights is told as such where they are loaded, and not blamed on the learning rate later."""
    arch = Architecture(32, 2, 4, 4, mlp="gelu", mlp_hidden=128, qk_norm="plain", layer_scale=True)
    backbone, file = build_backbone(arch, 16), tmp_path / "model.safetensors"
    state = backbone.state_dict()
    state["blocks.1.norm2.weight"] = state["blocks.1.norm2.weight"].index_fill(0, torch.tensor([3]), value)
    safetensors.torch.save_file(state, file)
    with pytest.raises(
        WeightsError, match=r"model\.safetensors: holds NaN or infinite numbers: blocks\.1\.norm2\.weight"
    ):
        load_backbone(backbone, file)


@pytest.mark.parametrize("labels", [0, 10])
def test_probe_of_weights_that_have_seen_labels_says_so(tmp_path: Path, digits_root: Path, labels: int) -> None:
    """A probe that starts from fine-tuned weights warns, and its result records it."""
    theirs = AuthorsNepa(config_of(labels=labels, image=48, patch=8)).save(tmp_path / "theirs")
    assert main(["import", str(theirs), str(tmp_path / "ours")]) == 0
    model = ["model.embed_dim=32", "model.depth=2", "model.num_heads=4", "model.patch_size=8", "model.mlp_hidden=128"]
    probe = ["probe.steps=2", "probe.batch_size=8", "probe.layers=last", "probe.knn_neighbours=0"]
    where = [f"data.root={digits_root}", f"run_dir={tmp_path / 'run'}", f"init={tmp_path / 'ours'}"]
    output = training(["task=probe", "model.size=femto", "probe.image_size=48", *model, *probe, *where])
    assert ("fine-tuned weights" in output) == bool(labels)
    result = json.loads((tmp_path / "run" / "probe" / "result.json").read_text())
    assert result["init_finetuned"] is bool(labels)
