"""A folder of photographs, as it comes from a camera: two commands to a pre-trained model and its pictures."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from launching import train

from nepa_scale.data.prepare.__main__ import main


@pytest.mark.slow
def test_two_commands_from_a_folder_to_a_model_and_its_pictures(real_data: Path, tmp_path: Path) -> None:
    """200 real JPEGs without labels become shards; a small model is trained on them and its maps are drawn."""
    photos, shards = tmp_path / "photos", sorted((real_data / "imagenette-128").glob("train-*.tar"))
    photos.mkdir()
    with tarfile.open(shards[0]) as archive:
        jpegs = [member for member in archive if member.name.endswith(".jpg")][:200]
        for number, member in enumerate(jpegs):
            (photos / f"DSC_{number:04d}.JPG").write_bytes(archive.extractfile(member).read())
    data = tmp_path / "data"
    assert main(["images", f"source={photos}", f"root={data}", "name=photos", "val_fraction=0.1"]) == 0
    quick = [
        "model=atto",
        "pretrain.image_size=48",
        "pretrain.steps=4",
        "pretrain.batch_size=16",
        "log.tensorboard=false",
    ]
    train(["task=pretrain", "data=photos", f"data.root={data}", f"run_dir={tmp_path / 'run'}", *quick])
    result = json.loads((tmp_path / "run" / "pretrain" / "result.json").read_text())
    assert (result["validation_images"], result["images_replaced"]) == (20, 0)
    assert (tmp_path / "run" / "pretrain" / "pictures.png").stat().st_size > 10_000
