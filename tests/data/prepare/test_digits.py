"""The embedded data set."""

from __future__ import annotations

import io
import multiprocessing
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from webdataset.tariterators import group_by_keys, tar_file_expander

from nepa_scale.data import layout
from nepa_scale.data.info import IMAGE_SIZE
from nepa_scale.data.prepare import digits
from nepa_scale.data.prepare.digits import write_digits
from nepa_scale.data.sources import Source, open_source
from nepa_scale.utils.errors import DataError


def decoded(source: Source, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Image [S, S, 3] and stored mask [S, S]."""
    sample = source[index]
    image, mask = Image.open(io.BytesIO(sample.image)), Image.open(io.BytesIO(sample.mask))
    assert (image.mode, mask.mode) == ("RGB", "L")
    return np.asarray(image).astype(float), np.asarray(mask)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a data set but its index, which notes times."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_no_glyph_is_in_both_splits() -> None:
    """Training and validation share no handwriting sample, and together use all 1,797."""
    splits = {
        split: {glyph.tobytes() for of_digit in glyphs.of_digit for glyph in of_digit}
        for split, glyphs in digits.split_glyphs().items()
    }
    assert not splits["train"] & splits["validation"]
    assert len(splits["train"]) + len(splits["validation"]) == 1797
    assert len(splits["validation"]) == 359


def test_glyphs_are_those_of_scikit_learn_under_their_digit() -> None:
    """Inside an empty border every glyph is an image of ``load_digits`` and stands under its own target."""
    bunch = load_digits()
    targets = {
        image.astype(np.uint8).tobytes(): int(target) for image, target in zip(bunch.images, bunch.target, strict=True)
    }
    for glyphs in digits.split_glyphs().values():
        for digit, examples in enumerate(glyphs.of_digit):
            assert len(examples) >= 28
            for example in examples:
                pixels = np.asarray(example)
                original = np.rint(pixels[1:-1, 1:-1] * (16 / 255)).astype(np.uint8)
                assert pixels.sum() == pixels[1:-1, 1:-1].sum()
                assert targets[original.tobytes()] == digit


def test_the_largest_digit_is_clearly_the_largest() -> None:
    """The digit that gives the class stands on top and is at least 1.5 times as high as any other."""
    rng = Random(0)
    counts = set()
    for _ in range(500):
        *others, largest = digits.arrange(7, 48, rng)
        counts.add(len(others))
        assert largest.digit == 7
        assert largest.size >= 24
        for box in (largest, *others):
            assert 0 <= box.top <= 48 - box.size
            assert 0 <= box.left <= 48 - box.size
        assert all(other.size * 1.5 <= largest.size for other in others)
    assert {0, 1, 2} <= counts <= {0, 1, 2, 3}


def test_classes_are_balanced(digits_root: Path) -> None:
    """No class can be guessed: each is a tenth of both splits."""
    for split, each in (("train", 20), ("validation", 6)):
        assert np.bincount(open_source(digits_root, "digits", split).labels).tolist() == [each] * 10


def test_masks_agree_with_images_and_classes(digits_root: Path) -> None:
    """The class is in its mask, masks hold background and digits only, and digits stand out."""
    source = open_source(digits_root, "digits", "train")
    contrasts = []
    for index in range(len(source)):
        image, mask = decoded(source, index)
        label = source[index].label
        assert image.shape == (*mask.shape, 3) == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert set(np.unique(mask)) <= set(range(1, 12))
        inside = mask == label + 2
        assert inside.sum() > 30
        rows, columns = np.where(inside)
        frame = np.zeros_like(inside)
        frame[max(rows.min() - 2, 0) : rows.max() + 3, max(columns.min() - 2, 0) : columns.max() + 3] = True
        around = frame & (mask == 1)
        contrasts.append(abs(image[inside].mean() - image[around].mean()))
    assert np.median(contrasts) > 40
    assert min(contrasts) > 10


def test_the_digits_in_the_scene_are_those_of_the_mask() -> None:
    """Drawn on a plain canvas, what differs from the canvas is what the mask marks."""
    glyphs = digits.split_glyphs()["train"]
    for seed in range(50):
        canvas = np.full((48, 48, 3), 128, np.float32)
        mask = digits.draw_scene(seed % 10, glyphs, canvas, Random(seed))
        strength = abs(canvas - 128).max(axis=-1)
        assert strength[mask > 1].min() > 25
        assert strength[mask == 1].mean() < strength[mask > 1].mean() / 3


def test_two_writes_give_the_same_bytes(tmp_path: Path) -> None:
    """The data set is a function of its settings, down to the byte; another seed gives other images."""
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert write_digits(tmp_path / folder, num_train=70, num_validation=20, seed=seed)
    first, second, third = (contents(tmp_path / folder / "digits") for folder in "abc")
    assert first == second
    assert first["train-000000.tar"] != third["train-000000.tar"]


def test_fewer_scenes_are_the_first_of_more(digits_root: Path, tmp_path: Path) -> None:
    """A smaller embedded data set is the beginning of a larger one."""
    write_digits(tmp_path, num_train=90, num_validation=10)
    small, large = (open_source(root, "digits", "train") for root in (tmp_path, digits_root))
    assert all(small[index] == large[index] for index in range(90))


def test_a_second_write_does_nothing(tmp_path: Path) -> None:
    """What is there stays as it is; other settings under the same name are refused."""
    assert write_digits(tmp_path, num_train=20, num_validation=10)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "digits").iterdir()}
    assert not write_digits(tmp_path, num_train=20, num_validation=10)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "digits").iterdir()} == stamps
    with pytest.raises(DataError, match="is not the data set asked for"):
        write_digits(tmp_path, num_train=30, num_validation=10)


@pytest.mark.slow(seconds=3)
def test_several_processes_may_write_at_once(tmp_path: Path) -> None:
    """All ranks may start on an empty folder: none fails, one whole data set remains, nothing else."""
    context = multiprocessing.get_context("spawn")
    settings = {"num_train": 150, "num_validation": 20, "shard_size": 50}
    writers = [context.Process(target=write_digits, args=(tmp_path,), kwargs=settings) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert layout.check_dataset(tmp_path, "digits", needs={"label", "mask"}) == []
    assert len(open_source(tmp_path, "digits", "train")) == 150


def test_webdataset_itself_reads_the_shards(digits_root: Path) -> None:
    """The files are ordinary WebDataset shards: its own reader gives the same samples in the same order."""
    folder, source = digits_root / "digits", open_source(digits_root, "digits", "train")
    shards = sorted(folder.glob("train-*.tar"))
    assert len(shards) == 3
    samples = []
    for shard in shards:
        with shard.open("rb") as file:
            samples += group_by_keys(tar_file_expander([{"url": shard.name, "stream": file}]))
    assert len(samples) == len(source) == 200
    for index, sample in enumerate(samples):
        ours = source[index]
        assert (sample["__key__"], sample["png"], sample["seg.png"]) == (ours.key, ours.image, ours.mask)
        assert int(sample["cls"]) == ours.label


@pytest.mark.parametrize("image_size", [16, 33, 96])
def test_other_sizes_can_be_written(tmp_path: Path, image_size: int) -> None:
    """The composition scales with the image."""
    write_digits(tmp_path, num_train=12, num_validation=1, image_size=image_size)
    for index in range(12):
        image, mask = decoded(open_source(tmp_path, "digits", "train"), index)
        assert image.shape == (image_size, image_size, 3)
        assert (mask == index % 10 + 2).any()
