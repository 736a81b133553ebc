"""Samples as tensors."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from randomness import sample_randomness

from nepa_scale.data import decode
from nepa_scale.data import transforms as T
from nepa_scale.data.datasets import LabelledImages, MaskedImages, PretrainImages
from nepa_scale.data.sources import open_source
from nepa_scale.utils.errors import DataError

CROP = T.PretrainCrop(24, crop_scale_min=0.3, hflip=0.5)
JOINT = T.segment_train(24, scale_min=0.5, scale_max=2.0, hflip=0.5)
WHOLE = T.segment_eval(24)


def replace_member(path: Path, name: str, content: bytes | None) -> None:
    """Rewrite a shard with one member's content changed, or without it."""
    with tarfile.open(path) as archive:
        files = [(member.name, archive.extractfile(member).read()) for member in archive]
    with tarfile.open(path, "w") as archive:
        for member_name, old in files:
            new = content if member_name == name else old
            if new is not None:
                member = tarfile.TarInfo(member_name)
                member.size = len(new)
                archive.addfile(member, io.BytesIO(new))


def png(mode: str, width: int, height: int, colour: int = 0) -> bytes:
    """A plain PNG."""
    buffer = io.BytesIO()
    Image.new(mode, (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_item_depends_on_seed_epoch_and_index_only(digits_root: Path) -> None:
    """Read again, in any order, an item is the same; another epoch or seed augments it differently."""
    source = open_source(digits_root, "digits", "train")
    images, reseeded = PretrainImages(source, None, CROP, seed=0), PretrainImages(source, None, CROP, seed=1)
    first = {place: images[place] for place in [(0, 5), (1, 5), (0, 6)]}
    torch.manual_seed(99)
    for place in [(0, 6), (1, 5), (0, 5)]:
        assert torch.equal(images[place], first[place])
    assert not torch.equal(first[0, 5], first[1, 5])
    assert not torch.equal(first[0, 5], reseeded[0, 5])


def test_a_subset_shows_the_same_samples_with_the_same_augmentation(digits_root: Path) -> None:
    """A subset keeps the order of the source; the crop belongs to the image, not to its place."""
    source = open_source(digits_root, "digits", "train")
    whole = PretrainImages(source, None, CROP, seed=0)
    part = PretrainImages(source, np.array([17, 3, 150]), CROP, seed=0)
    assert (len(whole), len(part)) == (200, 3)
    for position, index in enumerate([3, 17, 150]):
        assert torch.equal(part[2, position], whole[2, index])


def test_labelled_images_carry_their_class(digits_root: Path) -> None:
    """Image and class are those of the same sample, in every split."""
    source = open_source(digits_root, "digits", "validation")
    dataset = LabelledImages(source, None, T.classify_eval(32, crop_pct=1.0), seed=0)
    for index in (0, 7, 59):
        image, label = dataset[0, index]
        pixels = np.asarray(Image.open(io.BytesIO(source[index].image)), dtype=np.float32)
        np.testing.assert_allclose(image.numpy(), pixels.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
        assert label == source[index].label


def test_masks_are_those_of_pil_pixel_by_pixel(ade_root: Path) -> None:
    """The mask tensor is the stored PNG less one, with 255 where it was 0."""
    source = open_source(ade_root, "street", "train")
    dataset = MaskedImages(source, None, WHOLE, seed=0)
    for index in range(len(dataset)):
        stored = np.asarray(Image.open(io.BytesIO(source[index].mask))).astype(np.int64)
        _, mask = dataset[0, index]
        np.testing.assert_array_equal(mask.numpy(), np.where(stored == 0, 255, stored - 1))


def test_pretraining_reads_no_label(write_shards) -> None:
    """Broken, missing and impossible labels do not matter to pre-training; they stop classification."""
    root = write_shards(train=(3,))
    path = root / "toy" / "train-000000.tar"
    replace_member(path, "train_0000.cls", None)
    replace_member(path, "train_0001.cls", b"cat")
    replace_member(path, "train_0002.cls", b"99")
    source = open_source(root, "toy", "train")
    dataset = PretrainImages(source, None, CROP, seed=0)
    assert all(dataset[0, index].shape == (3, 24, 24) for index in range(3))
    with pytest.raises(DataError, match=r"sample 'train_0000'.*\(3 of 3 samples"):
        LabelledImages(source, None, CROP, seed=0)


@pytest.mark.parametrize(
    ("member", "content", "complaint"),
    [
        ("train_0001.png", b"<html>not found</html>", "the image cannot be decoded"),
        ("train_0001.seg.png", b"", "no .seg.png"),
        ("train_0001.seg.png", b"\x89PNG", "the mask cannot be decoded"),
        ("train_0001.seg.png", png("L", 24, 23), "the image is 24x24 pixels, its mask 24x23"),
        ("train_0001.seg.png", png("L", 24, 24, 4), "the mask holds the value 4, above 3, the last class"),
        ("train_0001.seg.png", png("RGB", 24, 24), "8-bit one-channel PNG, its mode is RGB"),
    ],
)
def test_a_bad_sample_is_named(write_shards, member: str, content: bytes, complaint: str) -> None:
    """One line with the sample's key and what is wrong with it."""
    root = write_shards(train=(3,))
    replace_member(root / "toy" / "train-000000.tar", member, content)
    with pytest.raises(DataError) as caught:
        MaskedImages(open_source(root, "toy", "train"), None, JOINT, seed=0)[0, 1]
    assert "sample 'train_0001'" in str(caught.value)
    assert complaint in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_mask_classes_are_those_declared(write_shards) -> None:
    """The highest class allowed is the last one named in ``_info.json``: with 200 names 200 is valid."""
    root = write_shards(train=(1,))
    replace_member(root / "toy" / "train-000000.tar", "train_0000.seg.png", png("L", 24, 24, 200))
    path = root / "toy" / "_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"mask_class_names": [str(index) for index in range(200)]}))
    _, mask = MaskedImages(open_source(root, "toy", "train"), None, WHOLE, seed=0)[0, 0]
    assert mask.unique().tolist() == [199]


def test_a_small_image_is_decoded_once_and_stays_as_it_was(digits_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kind of transform leaves the kept pixels alone; no more than the limit is kept."""
    content = open_source(digits_root, "digits", "train")[0].image
    decoder, plain = decode.Decoder(), decode.decode_rgb(content)
    for transform in (
        CROP,
        T.pretrain_eval(32),
        T.classify_train(32, crop_scale_min=1.0, hflip=1.0, auto_augment="rand-m9", re_prob=1.0),
        T.classify_eval(32, crop_pct=1.0),
    ):
        transform(decoder(content))
    for joint in (JOINT, WHOLE, T.segment_train(32, scale_min=1.0, scale_max=1.0, hflip=1.0, photometric=True)):
        joint(decoder(content), np.zeros(plain.shape[:2], np.uint8))
    assert decoder(content) is decoder(content)
    np.testing.assert_array_equal(decoder(content), plain)
    monkeypatch.setattr(decode, "_KEPT", 0)
    unkept = decode.Decoder()
    assert unkept(content) is not unkept(content)


# ruff: noqa: NPY002 (the global generator is what augmentations draw from)


def draws() -> tuple[float, float, float]:
    """One number from each of the three generators that augmentations use."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_the_same_sample_draws_the_same_whatever_came_before() -> None:
    """Augmentation is a function of (seed, epoch, index) alone."""
    with sample_randomness(1, 2, 3):
        first = draws()
    draws()
    with sample_randomness(1, 2, 3):
        assert draws() == first


def test_seed_epoch_and_index_all_matter_in_all_three_generators() -> None:
    """No generator repeats its numbers when any of the three changes, nor when they trade places."""
    seen = []
    for place in [(1, 2, 3), (2, 1, 3), (1, 3, 2), (3, 2, 1), (1, 2, 4), (12, 3, 0), (1, 23, 0)]:
        with sample_randomness(*place):
            seen.append(draws())
    for numbers in zip(*seen, strict=True):
        assert len(set(numbers)) == len(seen)


def test_generators_go_on_as_if_nothing_had_happened() -> None:
    """Training's own randomness (dropout, mixup) does not depend on what its process has loaded."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    expected = draws(), draws()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    first = draws()
    with sample_randomness(0, 0, 0):
        draws()
    assert (first, draws()) == expected


def test_generators_are_restored_after_an_error() -> None:
    """A sample that fails leaves no trace either."""
    random.seed(0)
    expected = random.random()
    random.seed(0)
    with pytest.raises(ValueError, match="broken"), sample_randomness(0, 0, 0):
        raise ValueError("broken")
    assert random.random() == expected
