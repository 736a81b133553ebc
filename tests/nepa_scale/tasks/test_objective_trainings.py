"""Whole trainings with each objective and variant, on one device and on two under ZeRO 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from launching import losses
from several_trainings import train_all

VARIANTS = {
    "horizon": ["pretrain.horizon=3"],
    "mse": ["pretrain.distance=mse"],
    "infonce": ["pretrain.distance=infonce"],
    "sigreg": ["pretrain.stop_gradient=false", "pretrain.sigreg=0.02"],
    "masked_pixels": [
        "pretrain.objective=masked_pixels",
        "pretrain.attention=bidirectional",
        "pretrain.mask_ratio=0.75",
    ],
    "next_pixels": ["pretrain.objective=next_pixels"],
}
MODEL = ("model=femto", "model.weight_init=xavier", "model.layer_scale_init=0.1")
DRAWN = {"sigreg", "masked_pixels"}  # each rank draws its own slices or masks


def commands(folder: Path, data: Path, ds_config: str) -> list[list[str]]:
    """A short pre-training of each variant on the digits."""
    common = ["task=pretrain", *MODEL, f"data.root={data}"]
    common += ["pretrain.image_size=48", "pretrain.steps=60", "pretrain.batch_size=16", "pretrain.base_lr=3e-2"]
    common += ["log.every=1", "log.tensorboard=false", "log.pictures=0", "checkpoint.every=0"]
    return [
        [*common, f"engine.ds_config={ds_config}", f"run_dir={folder / name}", *words]
        for name, words in VARIANTS.items()
    ]


@pytest.mark.slow
def test_every_variant_learns_under_zero_0_and_2(digits_root: Path, tmp_path: Path) -> None:
    """None collapses, each loss falls, none depends on the devices, and fine-tuning starts from the backbone alone."""
    one, two = tmp_path / "one", tmp_path / "two"
    train_all(commands(one, digits_root, "zero0"))
    train_all(commands(two, digits_root, "zero2"), world_size=2)
    for name in VARIANTS:
        for folder in (one, two):
            metrics = json.loads((folder / name / "pretrain" / "result.json").read_text())["metrics"]
            assert metrics["skill"] > (0.1 if "pixels" in name or name == "sigreg" else -0.2), (name, metrics)
            first, *_, last = losses(folder / name / "pretrain")
            assert last < first - 0.2, name
            assert min(metrics["effective_rank_embeddings"], metrics["effective_rank_outputs"]) > 3, (name, metrics)
        if name not in DRAWN:
            apart = losses(one / name / "pretrain")
            assert losses(two / name / "pretrain") == pytest.approx(apart, abs=1e-3)
    words = [
        "task=classify",
        *MODEL,
        f"data.root={digits_root}",
        "classify.image_size=48",
        "classify.steps=2",
        "classify.batch_size=8",
        "log.every=1",
    ]
    train_all([[*words, f"run_dir={one / 'masked_pixels'}", "log.tensorboard=false"]])
    assert losses(one / "masked_pixels" / "classify")
