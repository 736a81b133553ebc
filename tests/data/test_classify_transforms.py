"""Classification's transforms against the published recipes, done once more with PIL and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from randomness import sample_randomness
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing

from nepa_scale.data import transforms as T
from nepa_scale.data.preprocessing import Standardisation


def noise(width: int, height: int) -> Image.Image:
    """An image of random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cut(image: Image.Image, resized: tuple[int, int], side: int) -> Any:
    """Resize with PIL's bicubic filter to (width, height), cut the middle, bring to [-1, 1]: [3, side, side]."""
    image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), dtype=np.float32)
    return pixels.transpose(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize(("width", "height"), [(400, 300), (300, 400), (640, 257), (100, 100)])
@pytest.mark.parametrize(
    ("crop_mode", "crop_pct", "side"), [("center", 0.875, 256), ("squash", 0.95, 235), ("squash", 1.0, 224)]
)
def test_evaluation_crops_of_both_released_models(
    crop_mode: str, crop_pct: float, side: int, width: int, height: int
) -> None:
    """Base: shorter side to 256. Large: exactly 235 x 235 (224 / 0.95 rounded down). Then the middle 224 x 224."""
    image = noise(width, height)
    shorter = min(width, height)
    size = (side, side) if crop_mode == "squash" else (int(side * width / shorter), int(side * height / shorter))
    found = T.classify_eval(224, crop_pct=crop_pct, crop_mode=crop_mode)(np.array(image))
    np.testing.assert_allclose(found.numpy(), cut(image, size, 224), atol=1e-6)


def erased(transform: T.ImageTransform, index: int) -> Any:
    """Which pixels of a uniform image the transform has replaced."""
    with sample_randomness(0, 0, index):
        pixels = transform(np.full((32, 32, 3), 255, np.uint8)).numpy()
    return (pixels != 1.0).any(axis=0)


def test_random_erasing_is_one_rectangle_of_noise() -> None:
    """With probability 0.25 one rectangle, of a different random colour at every pixel."""
    transform = T.classify_train(32, crop_scale_min=1.0, hflip=0.0, auto_augment=None, re_prob=0.25)
    masks = [erased(transform, index) for index in range(400)]
    hit = [mask for mask in masks if mask.any()]
    assert 60 < len(hit) < 140
    for mask in hit:
        rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    erasing = transform.timm.transforms[-1]  # type: ignore[attr-defined]
    assert isinstance(erasing, RandomErasing)
    assert (erasing.per_pixel, erasing.rand_color, erasing.min_count, erasing.max_count) == (True, False, 1, 1)


def test_published_augmentation_is_timm_s() -> None:
    """rand-m9-mstd0.5-inc1 is RandAugment of two operations at magnitude 9 +- 0.5, with no colour jitter beside it."""
    policy = "rand-m9-mstd0.5-inc1"
    transform = T.classify_train(224, crop_scale_min=0.08, hflip=0.5, auto_augment=policy, re_prob=0.25)
    names = [type(step).__name__ for step in transform.timm.transforms]  # type: ignore[attr-defined]
    assert names[:3] == ["RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "RandAugment"]
    assert "ColorJitter" not in names
    augment = transform.timm.transforms[2]  # type: ignore[attr-defined]
    assert augment.num_layers == 2
    assert {(operation.magnitude, operation.magnitude_std) for operation in augment.ops} == {(9, 0.5)}
    crop = transform.timm.transforms[0]  # type: ignore[attr-defined]
    assert (crop.scale, crop.ratio) == ((0.08, 1.0), (3 / 4, 4 / 3))


@pytest.mark.parametrize("re_prob", [0.0, 1.0])
@pytest.mark.parametrize("auto_augment", [None, "rand-m9-mstd0.5-inc1", "3a"])
def test_every_bit_is_timm_s(auto_augment: str | None, re_prob: float) -> None:
    """What is left out or done faster of timm's pipeline changes neither a value nor what is drawn at random."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    own = T.classify_train(
        32,
        crop_scale_min=0.3,
        hflip=0.5,
        auto_augment=auto_augment,
        re_prob=re_prob,
        standard=Standardisation(mean, std),
    )
    timms = create_transform(
        32,
        is_training=True,
        interpolation="bicubic",
        mean=mean,
        std=std,
        scale=(0.3, 1.0),
        color_jitter=0.0,
        auto_augment=auto_augment,
        re_prob=re_prob,
        re_mode="pixel",
    )
    image = noise(48, 40)
    for index in range(20):
        with sample_randomness(0, 0, index):
            found = own(np.array(image))
        with sample_randomness(0, 0, index):
            assert found.equal(timms(image))
