"""Real photographs and masks. Needs the folder named by NEPA_DATA; skipped without it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nepa_scale.data import layout
from nepa_scale.data import transforms as T
from nepa_scale.data.datasets import LabelledImages, MaskedImages
from nepa_scale.data.decode import IGNORE, decode_mask
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.sources import open_source

SHARDS = ["tiny-imagenet-200", "imagenette-128", "imagenet1k-sample", "cifar10"]
FOLDERS = ["camvid-as-ade", "ade20k-official-6"]


def available(root: Path, name: str) -> Path:
    """The root, or skip the test where it lacks this data set."""
    if not (root / name).is_dir():
        pytest.skip(f"no '{name}' in NEPA_DATA")
    return root


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_shards_match_tarfile(real_data: Path, name: str, split: str) -> None:
    """The first and the last shard: every image byte by byte, every label, in the order of the files."""
    root = available(real_data, name)
    assert layout.check_dataset(root, name, needs={"label"}) == []
    source, info = open_source(root, name, split), layout.dataset_info(root, name)
    source.check_labels()
    lengths = info.splits[split].shard_lengths
    for shard in {0, len(lengths) - 1}:
        index = sum(lengths[:shard])
        with tarfile.open(root / name / info.splits[split].filenames[shard]) as archive:
            for member in archive:
                sample, content = source[index], archive.extractfile(member).read()
                assert member.name.startswith(f"{sample.key}.")
                assert content == (str(sample.label).encode() if member.name.endswith(".cls") else sample.image)
                index += member.name.endswith(".cls")
    assert index == len(source)


@pytest.mark.parametrize("name", SHARDS)
def test_photographs_become_tensors(real_data: Path, name: str) -> None:
    """Real JPEG files, grey ones among them, decode and reach the model's range; all classes are valid."""
    source = open_source(available(real_data, name), name, "validation")
    dataset = LabelledImages(source, None, T.classify_eval(32, crop_pct=0.875), seed=0)
    images = np.stack([dataset[0, index][0].numpy() for index in range(100)])
    assert images.shape == (100, 3, 32, 32)
    assert -1 <= images.min() < -0.9
    assert 0.9 < images.max() <= 1


@pytest.mark.parametrize("name", FOLDERS)
def test_photographs_and_masks_fit(real_data: Path, name: str) -> None:
    """Every mask equals PIL's reading less one and has its photograph's size."""
    root = available(real_data, name)
    assert layout.check_dataset(root, name, needs={"mask"}) == []
    source = open_source(root, name, "validation")
    dataset = MaskedImages(source, None, T.segment_eval(64), seed=0)
    for index in range(min(len(source), 20)):
        (image,), mask = dataset[0, index]
        stored = np.asarray(Image.open(io.BytesIO(source[index].mask))).astype(np.int64)
        np.testing.assert_array_equal(mask.numpy(), np.where(stored == 0, 255, stored - 1))
        assert min(image.shape[1:]) == 64
        width, height = Image.open(io.BytesIO(source[index].image)).size
        assert mask.shape == (height, width)


def test_camvid_holds_its_eleven_classes(real_data: Path) -> None:
    """The ids that its README lists, and no others, occur over the whole validation split."""
    source = open_source(available(real_data, "camvid-as-ade"), "camvid-as-ade", "validation")
    found = {value for index in range(len(source)) for value in np.unique(decode_mask(source[index].mask)).tolist()}
    expected = {"sky", "building, edifice", "pole", "road, route", "sidewalk, pavement", "tree"}
    names = layout.dataset_info(real_data, "camvid-as-ade").mask_class_names
    assert {identifier + 1 for identifier in found - {IGNORE}} == {3, 2, 94, 7, 12, 5, 44, 33, 21, 13, 128}
    assert expected <= {names[identifier] for identifier in found - {IGNORE}}


def test_a_real_ade20k_folder_becomes_shards(real_data: Path, tmp_path: Path) -> None:
    """Prepared as shards, real photographs and masks are the same bytes under the same names."""
    root = available(real_data, "ade20k-official-6")
    assert main(["ade20k", f"source={root / 'ade20k-official-6'}", f"root={tmp_path}", "name=ade"]) == 0
    for split in ("train", "validation"):
        before, after = open_source(root, "ade20k-official-6", split), open_source(tmp_path, "ade", split)
        assert [after[index] for index in range(3)] == [before[index] for index in range(3)]
    assert layout.dataset_info(tmp_path, "ade").mask_class_names[:2] == ("wall", "building, edifice")
