"""Small data sets of every layout, written with ``tarfile`` and PIL alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from shard_files import encode, sample_files, write_tar

WriteShards = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep shard indexes out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


def info_of(name: str, lengths: Mapping[str, Sequence[int]], classes: int) -> dict[str, object]:
    """The content of ``_info.json``."""
    return {
        "name": name,
        "num_classes": classes,
        "class_names": [f"class {index}" for index in range(classes)],
        "mask_class_names": ["ground", "wall", "sky"],
        "splits": {
            split: {
                "name": split,
                "num_samples": sum(counts),
                "filenames": [f"{split}-{shard:06d}.tar" for shard in range(len(counts))],
                "shard_lengths": list(counts),
            }
            for split, counts in lengths.items()
        },
    }


@pytest.fixture
def write_shards(tmp_path: Path) -> WriteShards:
    """Write ``root/name`` with the given shard lengths; return the root."""

    def write(name: str = "toy", *, train: Sequence[int] = (5, 4), validation: Sequence[int] = (3,)) -> Path:
        root, classes = tmp_path / "root", 3
        folder = root / name
        folder.mkdir(parents=True)
        lengths = {"train": train, "validation": validation}
        (folder / "_info.json").write_text(json.dumps(info_of(name, lengths, classes)))
        for split, counts in lengths.items():
            first = 0
            for shard, count in enumerate(counts):
                samples = [sample_files(split, index, classes=classes) for index in range(first, first + count)]
                write_tar(folder / f"{split}-{shard:06d}.tar", [file for sample in samples for file in sample])
                first += count
        return root

    return write


@pytest.fixture
def ade_root(tmp_path: Path) -> Path:
    """A root with ``street``, an ADE20K folder of three training and two validation photographs."""
    root = tmp_path / "root"
    for split, count in (("training", 3), ("validation", 2)):
        images = root / "street" / "ADEChallengeData2016" / "images" / split
        masks = root / "street" / "ADEChallengeData2016" / "annotations" / split
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([count, index])
            pixels = rng.integers(256, size=(20, 30, 3), dtype=np.uint8)
            (images / f"ADE_{split}_{index}.jpg").write_bytes(encode(pixels, "JPEG"))
            mask = rng.integers(151, size=(20, 30), dtype=np.uint8)
            (masks / f"ADE_{split}_{index}.png").write_bytes(encode(mask))
    return root


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    """Imagenette's layout: train/ and val/ with folders "n01" and "n02" of .JPEG and .png files."""
    source = tmp_path / "photographs"
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("n01", "n02")):
            folder = source / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng([label, index]).integers(256, size=(18, 22, 3), dtype=np.uint8)
                suffix, image_format = (".png", "PNG") if index == 1 else (".JPEG", "JPEG")
                (folder / f"{split}_{name}_{index}{suffix}").write_bytes(encode(pixels, image_format))
    return source


@pytest.fixture(scope="session")
def digits_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a small embedded data set."""
    from nepa_scale.data.prepare.digits import write_digits

    root = tmp_path_factory.mktemp("embedded")
    write_digits(root, num_train=200, num_validation=60, shard_size=80)
    return root
