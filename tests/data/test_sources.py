"""Random access to samples."""

from __future__ import annotations

import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nepa_scale.data.sources import open_source
from nepa_scale.utils.errors import DataError


def test_shards_give_the_bytes_that_tarfile_gives(write_shards) -> None:
    """Every sample of every shard, in order: key, image, label and mask unchanged."""
    root = write_shards(train=(3, 1, 4))
    source = open_source(root, "toy", "train")
    assert (len(source), source.num_classes, source.mask_classes) == (8, 3, 3)
    index = 0
    for path in sorted((root / "toy").glob("train-*.tar")):
        with tarfile.open(path) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}
        for name in (name for name in files if name.endswith(".cls")):
            key, sample = name.removesuffix(".cls"), source[index]
            assert sample.key == key
            assert sample.image == files[f"{key}.png"]
            assert sample.mask == files[f"{key}.seg.png"]
            assert sample.label == int(files[name]) == source.labels[index]
            index += 1
    assert index == 8


def test_ade20k_gives_the_files_paired_by_name(ade_root: Path) -> None:
    """Photograph and mask of one name, unchanged, and no label."""
    source = open_source(ade_root, "street", "validation")
    base = ade_root / "street" / "ADEChallengeData2016"
    assert (len(source), source.num_classes, source.mask_classes) == (2, 0, 150)
    assert source.labels.tolist() == [-1, -1]
    for index in range(2):
        sample = source[index]
        assert sample.image == (base / "images" / "validation" / f"{sample.key}.jpg").read_bytes()
        assert sample.mask == (base / "annotations" / "validation" / f"{sample.key}.png").read_bytes()
        assert sample.label is None


@pytest.mark.parametrize("name", ["toy", "street"])
def test_a_pickled_source_reads_the_same(write_shards, ade_root: Path, name: str) -> None:
    """Loader workers may be started afresh and receive the source by pickle."""
    write_shards()
    source = open_source(ade_root, name, "train")
    assert pickle.loads(pickle.dumps(source))[1] == source[1]


def test_a_wrong_count_names_shard_expected_and_found(write_shards) -> None:
    """A shard that does not hold what ``_info.json`` says is refused with both numbers."""
    root = write_shards(train=(5, 4))
    path = root / "toy" / "_info.json"
    info = json.loads(path.read_text())
    info["splits"]["train"] |= {"shard_lengths": [5, 6], "num_samples": 11}
    path.write_text(json.dumps(info))
    with pytest.raises(DataError, match=r"train-000001\.tar' must hold 6 samples by _info\.json, but 4 found"):
        open_source(root, "toy", "train")


def test_a_missing_shard_is_named(write_shards) -> None:
    """Opening without a check first still gives a line."""
    root = write_shards()
    (root / "toy" / "train-000001.tar").unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar' is missing"):
        open_source(root, "toy", "train")


def test_invalid_labels_are_found_at_once(write_shards) -> None:
    """A class beyond num_classes is named with shard and sample, and how many there are."""
    root = write_shards()
    path = root / "toy" / "_info.json"
    info = json.loads(path.read_text())
    info |= {"num_classes": 2, "class_names": ["cat", "dog"]}
    path.write_text(json.dumps(info))
    source = open_source(root, "toy", "train")
    with pytest.raises(DataError, match=r"train-000000\.tar', sample 'train_0002': .* from 0 to 1 \(3 of 9 samples"):
        source.check_labels()


def test_missing_masks_are_found_at_once(write_shards) -> None:
    """A sample without mask is named with its shard; the others are fine without it for other tasks."""
    root = write_shards(train=(2, 2))
    path = root / "toy" / "train-000001.tar"
    with tarfile.open(path) as archive:
        kept = [(member, archive.extractfile(member)) for member in archive if "_0003.seg" not in member.name]
        with tarfile.open(root / "new.tar", "w") as new:
            for member, content in kept:
                new.addfile(member, content)
    (root / "new.tar").rename(path)
    source = open_source(root, "toy", "train")
    assert source[3].mask is None
    with pytest.raises(DataError, match=r"train-000001\.tar', sample 'train_0003': no \.seg\.png \(1 of 4"):
        source.check_masks()


def test_ade20k_has_no_labels_to_check(ade_root: Path) -> None:
    """Classification on an ADE20K folder is refused."""
    source = open_source(ade_root, "street", "train")
    source.check_masks()
    with pytest.raises(DataError, match="holds no class labels"):
        source.check_labels()


def test_an_ade20k_folder_with_an_unpaired_photograph_is_refused(ade_root: Path) -> None:
    """Pairs cannot slip by one: a missing mask stops the opening."""
    (ade_root / "street" / "ADEChallengeData2016" / "annotations" / "training" / "ADE_training_0.png").unlink()
    with pytest.raises(DataError, match=r"ADE_training_0\.jpg' has no mask"):
        open_source(ade_root, "street", "train")


def test_labels_are_one_array(write_shards) -> None:
    """The classes of a split are known without reading a single image."""
    source = open_source(write_shards(train=(4, 5)), "toy", "train")
    np.testing.assert_array_equal(source.labels, np.arange(9) % 3)
