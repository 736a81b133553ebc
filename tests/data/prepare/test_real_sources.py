"""Real photographs and masks through the commands. Needs the folder named by NEPA_DATA; skipped without it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archives import split_samples, zipped
from PIL import Image

from nepa_scale.data import layout
from nepa_scale.data.prepare.__main__ import main
from nepa_scale.data.sources import open_source

SPLITS = {"train": "training", "validation": "validation"}


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("name", ["ade20k-official-6", "camvid-as-ade"])
def test_masks_survive(real_data: Path, tmp_path: Path, name: str, as_zip: bool) -> None:
    """Prepared, verified and read: every mask equals PIL's reading of its file, every photograph keeps its bytes."""
    source = real_data / name
    if not source.is_dir():
        pytest.skip(f"no '{name}' in NEPA_DATA")
    base = source / "ADEChallengeData2016"
    given = zipped(base, tmp_path / "ade.zip", "ADEChallengeData2016/") if as_zip else source
    assert main(["ade20k", f"source={given}", f"root={tmp_path}", "name=ade", "workers=1"]) == 0
    assert main(["verify", f"root={tmp_path}", "name=ade", "workers=1"]) == 0
    assert layout.check_dataset(tmp_path, "ade", needs={"mask"}) == []
    for split, folder in SPLITS.items():
        read = open_source(tmp_path, "ade", split)
        samples = [read[index] for index in range(len(read))]
        assert sorted(sample.key for sample in samples) == sorted(p.stem for p in (base / "images" / folder).iterdir())
        for sample in samples:
            assert sample.image == (base / "images" / folder / f"{sample.key}.jpg").read_bytes()
            expected = np.asarray(Image.open(base / "annotations" / folder / f"{sample.key}.png"))
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample.mask))), expected)


@pytest.mark.parametrize("name", ["ade20k-official-6", "camvid-as-ade"])
def test_plain_folders_of_masks_give_what_ade20k_gives(real_data: Path, tmp_path: Path, name: str) -> None:
    """The same folders read as plain ones, with the values of ADE20K's classes stated: the same masks."""
    source = real_data / name
    if not source.is_dir():
        pytest.skip(f"no '{name}' in NEPA_DATA")
    words = [f"source={source}", f"root={tmp_path}", "workers=1"]
    assert main(["ade20k", *words, "name=ade"]) == 0
    assert main(["masks", *words, "name=plain", "values=1-150", "ignore=0"]) == 0
    for split in SPLITS:
        ade, plain = (split_samples(tmp_path / kind, split).values() for kind in ("ade", "plain"))
        masks = {sample["jpg"]: sample["seg.png"] for sample in ade}
        assert len(plain) == len(masks)
        for sample in plain:
            both = (np.asarray(Image.open(io.BytesIO(mask))) for mask in (sample["seg.png"], masks[sample["jpg"]]))
            np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("name", ["ade20k-official-6", "camvid-as-ade"])
def test_folders_that_are_read_directly_have_no_fault(real_data: Path, name: str) -> None:
    """The command agrees that these sets are good."""
    assert main(["verify", f"root={real_data}", f"name={name}", "workers=1"]) == 0


def test_shards_through_parquet(real_data: Path, tmp_path: Path) -> None:
    """Photographs of a published set, stored as parquet, come back with the same bytes and classes."""
    folder = real_data / "imagenet1k-sample"
    (tmp_path / "source").mkdir()
    expected = {}
    for split in ("train", "validation"):
        samples = split_samples(folder, split)
        rows = [
            (next(sample[e] for e in ("jpg", "jpeg") if e in sample), int(sample["cls"])) for sample in samples.values()
        ]
        expected[split] = sorted(rows)
        images = [{"bytes": image, "path": "x.jpg"} for image, _ in rows]
        table = pa.table({"image": images, "label": pa.array([label for _, label in rows], pa.int64())})
        pq.write_table(table, tmp_path / "source" / f"{split}-00000-of-00001.parquet", row_group_size=100)
    words = [f"source={tmp_path / 'source'}", f"root={tmp_path}", "name=back", "workers=1", "shard_size=150"]
    assert main(["parquet", *words]) == 0
    for split, rows in expected.items():
        found = [(s["jpg"], int(s["cls"])) for s in split_samples(tmp_path / "back", split).values()]
        assert sorted(found) == rows


def test_adopting_a_published_set(real_data: Path, tmp_path: Path) -> None:
    """Shards made by someone else, without their table of contents, get one that counts as tarfile counts."""
    folder = tmp_path / "cifar10"
    folder.mkdir()
    counts = {}
    for path in (real_data / "cifar10").glob("*.tar"):
        (folder / path.name).symlink_to(path.resolve())
        with tarfile.open(path) as archive:
            counts[path.name] = sum(name.endswith(".cls") for name in archive.getnames())
    assert main(["adopt", f"root={tmp_path}", "name=cifar10", "workers=1"]) == 0
    info = layout.dataset_info(tmp_path, "cifar10")
    assert info.num_classes == 10
    lengths = {n: c for s in info.splits.values() for n, c in zip(s.filenames, s.shard_lengths, strict=True)}
    assert lengths == counts
