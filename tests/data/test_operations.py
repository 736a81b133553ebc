"""Operations on images: what one of them raises is told in one line, and none raises at the ends of its range."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from randomness import sample_randomness

from nepa_scale.data import transforms as T
from nepa_scale.data.datasets import TRIES, LabelledImages, PretrainImages
from nepa_scale.data.decode import IGNORE, BadImageError, decode_rgb
from nepa_scale.data.loader import eval_loader, train_loader
from nepa_scale.data.operations import applied
from nepa_scale.data.shard_stream import open_stream
from nepa_scale.data.sources import Contents, open_source
from nepa_scale.data.streaming import eval_stream, train_stream
from nepa_scale.utils.errors import DataError

BATCHES = {"batch_size": 4, "rank": 0, "world_size": 1}
TRAINING = {**BATCHES, "micro_batch_size": 4, "seed": 0, "start_step": 0, "total_steps": 3}
POLICY = "rand-p1-n1-inc1"


class Choosy:
    """A pre-training transform with an operation that fails on the images that ``bad`` picks."""

    def __init__(self, bad: Callable[[np.ndarray], bool]) -> None:
        self._crop, self._bad = T.PretrainCrop(16, crop_scale_min=0.3, hflip=0.5), bad

    def __call__(self, pixels: np.ndarray) -> torch.Tensor:
        if self._bad(pixels):
            raise RuntimeError("cannot do that\nat all")
        return self._crop(pixels)


def everything(_pixels: np.ndarray) -> bool:
    """No image is good."""
    return True


def opened(root: Path, *, streaming: bool) -> Contents:
    """The training images, by index or from front to back."""
    return open_stream(root, "toy", "train", allow_remote=False) if streaming else open_source(root, "toy", "train")


@pytest.mark.slow(seconds=4)
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("streaming", [False, True])
def test_an_operation_that_fails_is_named_with_the_sample(write_shards, streaming: bool, num_workers: int) -> None:
    """In training and in evaluation, in loader processes too: shard, sample, operation, reason and remedy in a line."""
    data = PretrainImages(opened(write_shards(train=(8, 8)), streaming=streaming), None, Choosy(everything), seed=0)
    train, evaluate = (train_stream, eval_stream) if streaming else (train_loader, eval_loader)
    for batches in (
        train(data, num_workers=num_workers, **TRAINING),
        evaluate(data, num_workers=num_workers, **BATCHES),
    ):
        with pytest.raises(DataError) as caught:
            list(batches)
        [line] = str(caught.value).splitlines()
        assert "shard '" in line
        assert "sample 'train_00" in line
        assert "Choosy fails on the image of " in line
        assert "(RuntimeError: cannot do that); constraints.txt" in line


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_that_an_operation_fails_on_is_replaced_and_counted(write_shards, streaming: bool) -> None:
    """As one that cannot be decoded is, so that one image does not end a run that no restart would take past it."""
    root = write_shards(train=(8, 8))
    one = decode_rgb(open_source(root, "toy", "train")[5].image)
    data = PretrainImages(
        opened(root, streaming=streaming), None, Choosy(lambda pixels: np.array_equal(pixels, one)), seed=0
    )
    loaded = list((train_stream if streaming else train_loader)(data, num_workers=0, **{**TRAINING, "total_steps": 4}))
    assert [len(each.batch) for each in loaded] == [4] * 4
    [fault] = [fault for each in loaded for fault in each.faults]
    assert "sample 'train_0005': Choosy fails" in fault


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_operation_of_a_policy_is_named_with_its_setting(
    write_shards, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    """Which of timm's operations it was, with its argument, and the setting that leaves it out."""
    monkeypatch.setattr(ImageOps, "solarize", lambda *_: 1 / 0)  # as another version of a library might
    transform = T.classify_train(16, crop_scale_min=0.3, hflip=0.5, auto_augment=POLICY, re_prob=0)
    data = LabelledImages(open_source(write_shards(train=(64,)), "toy", "train"), None, transform, seed=0)
    with pytest.raises(DataError) as caught:
        list(train_loader(data, num_workers=num_workers, **{**TRAINING, "total_steps": 16}))
    line = str(caught.value)
    assert "SolarizeIncreasing(0) of RandAugment fails" in line
    assert "(ZeroDivisionError: division by zero); classify.auto_augment=null leaves it out" in line
    assert line.endswith(f"nor can the {TRIES - 1} samples after it")


def test_an_operation_on_image_and_mask_is_named() -> None:
    """Segmentation's joint transform tells which of its steps it was."""
    transform = T.segment_train(16, scale_min=1, scale_max=1, hflip=0)
    with sample_randomness(0, 0, 0), pytest.raises(BadImageError, match="RandomResize fails on the image of 20x30 pix"):
        applied(transform, np.zeros((30, 20, 3), np.uint8), np.zeros((30, 0), np.uint8))


def test_lack_of_memory_is_no_fault_of_the_image() -> None:
    """It keeps its own exit code and remedy."""

    def hungry(_pixels: np.ndarray) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="allocate memory"):
        applied(hungry, np.zeros((2, 2, 3), np.uint8))


def contents() -> dict[str, np.ndarray]:
    """Pixels of files of every kind that is accepted, as they are decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 17, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    files = {
        "RGB": image,
        "grey": image.convert("L"),
        "bilevel": image.convert("1"),
        "palette": image.quantize(5),
        "alpha": image.convert("RGBA"),
        "CMYK": image.convert("CMYK"),
        "black": Image.new("RGB", (24, 17)),
        "smallest": image.resize((2, 2)),
        "wide": image.resize((400, 2)),
        "tall": image.resize((2, 400)),
    }
    found = {}
    for name, each in files.items():
        buffer = io.BytesIO()
        each.save(buffer, "TIFF" if name == "CMYK" else "PNG")
        found[name] = decode_rgb(buffer.getvalue())
    return found


CONTENTS = contents()
TINY, ONE = 1e-300, 1.0
TRANSFORMS: dict[str, Callable[[], Any]] = {
    "pretrain": lambda: T.PretrainCrop(16, crop_scale_min=0.08, hflip=0.5),
    "pretrain, least crop": lambda: T.PretrainCrop(16, crop_scale_min=TINY, hflip=ONE),
    "pretrain, whole": lambda: T.PretrainCrop(16, crop_scale_min=ONE, hflip=ONE),
    "pretrain, evaluation": lambda: T.pretrain_eval(16),
    **{
        f"classify, {policy}, crop {crop}": lambda policy=policy, crop=crop: T.classify_train(
            16, crop_scale_min=crop, hflip=0.5, auto_augment=policy, re_prob=ONE
        )
        for policy in (None, "rand-m9-mstd0.5-inc1", "augmix", "3a")
        for crop in (TINY, 0.08, ONE)
    },
    "classify, evaluation": lambda: T.classify_eval(16, crop_pct=0.1),
    "classify, squashed": lambda: T.classify_eval(16, crop_pct=0.1, crop_mode="squash"),
    "two pixels": lambda: T.classify_train(2, crop_scale_min=0.08, hflip=0.5, auto_augment="rand-n4", re_prob=ONE),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_takes_every_image(name: str) -> None:
    """At the ends of all settings, on the smallest and longest images and those of every colour."""
    transform = TRANSFORMS[name]()
    for pixels in CONTENTS.values():
        for index in range(20):
            with sample_randomness(0, 0, index):
                image = applied(transform, pixels)
            assert image.shape[0] == 3
            assert torch.isfinite(image.float()).all()


@pytest.mark.slow(seconds=8)
@pytest.mark.parametrize("scales", [(0.001, 0.001), (0.5, 2.0), (10.0, 10.0)])
@pytest.mark.parametrize("ratio", [TINY, 0.75, ONE])
def test_joint_transforms_take_every_image(scales: tuple[float, float], ratio: float) -> None:
    """Segmentation's, from one pixel to ten times the crop, with masks of one class, of many and without any."""
    smallest, largest = scales
    transform = T.segment_train(
        8, scale_min=smallest, scale_max=largest, hflip=0.5, cat_max_ratio=ratio, photometric=True
    )
    for pixels in CONTENTS.values():
        noise = np.random.default_rng(0).integers(0, 3, pixels.shape[:2], dtype=np.uint8)
        for mask in (noise, np.zeros_like(noise), np.full_like(noise, IGNORE)):
            for index in range(4):
                with sample_randomness(0, 0, index):
                    image, classes = applied(transform, pixels, mask)
                assert (image.shape, classes.shape) == ((3, 8, 8), (8, 8))
                assert torch.isfinite(image).all()
