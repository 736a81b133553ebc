"""Augmentation, against PIL and numpy."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from randomness import sample_randomness
from scipy import stats
from torch.nn.functional import max_pool2d
from torchvision import tv_tensors
from torchvision.transforms import v2

from nepa_scale.data import transforms as T
from nepa_scale.data.decode import IGNORE

LEVEL = 2 / 255  # one grey level after normalisation


def encoded(image: Image.Image, image_format: str = "PNG") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, format=image_format)
    return buffer.getvalue()


def noise(width: int, height: int) -> Image.Image:
    """A smooth random colour image."""
    rough = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def normalised(image: Image.Image) -> np.ndarray:
    """(pixel / 255 - 0.5) / 0.5, channels first."""
    return (np.asarray(image, dtype=np.float64).transpose(2, 0, 1) / 255 - 0.5) / 0.5


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose red is the column and green the row, both from 0 to 250."""
    columns, rows = np.linspace(0, 250, width), np.linspace(0, 250, height)
    red, green = np.meshgrid(columns, rows)
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=-1).round().astype(np.uint8))


@pytest.mark.parametrize(
    "transform",
    [
        lambda image: T.normalise(T.pretrain_eval(32)(image)),
        T.classify_eval(32, crop_pct=1.0),
        lambda image: T.normalise(T.PretrainCrop(32, crop_scale_min=1.0, hflip=0.0)(image)),
        lambda image: T.segment_eval(32)(image, np.zeros((32, 32), np.uint8))[0][0],
        lambda image: T.segment_train(32, scale_min=1.0, scale_max=1.0, hflip=0.0)(image, np.zeros((32, 32), np.uint8))[
            0
        ],
    ],
)
def test_normalisation_is_exact(transform: T.ImageTransform) -> None:
    """One colour stays one colour, and 0 and 255 become exactly -1 and 1 in every task."""
    for level in (0, 51, 255):
        tensor = transform(np.full((32, 32, 3), level, np.uint8))
        assert tensor.shape == (3, 32, 32)
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, torch.full_like(tensor, level / 255 * 2 - 1))


@pytest.mark.parametrize(("width", "height"), [(100, 60), (60, 100), (31, 45), (32, 32)])
def test_pretrain_eval_is_resize_and_centre_crop(width: int, height: int) -> None:
    """Shorter side to the image size, then the middle: as PIL does it, to a grey level or two."""
    image = noise(width, height)
    scale = 32 / min(width, height)
    size = int(width * scale), int(height * scale)
    resized = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 32) / 2), round((size[1] - 32) / 2)
    expected = normalised(resized.crop((left, top, left + 32, top + 32)))
    np.testing.assert_allclose(T.normalise(T.pretrain_eval(32)(np.array(image))).numpy(), expected, atol=2.1 * LEVEL)


def test_classify_eval_resizes_beyond_the_crop() -> None:
    """Shorter side to image_size / crop_pct by bicubic, then the middle: 224 is cut from 256 at 0.875."""
    image = noise(400, 300)
    resized = image.resize((int(256 * 400 / 300), 256), Image.Resampling.BICUBIC)
    left = round((resized.width - 224) / 2)
    expected = normalised(resized.crop((left, 16, left + 224, 240)))
    np.testing.assert_allclose(T.classify_eval(224, crop_pct=0.875)(np.array(image)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("crop_scale_min", [0.08, 0.5])
def test_random_crops_stay_within_their_limits(crop_scale_min: float) -> None:
    """Area and aspect of the crop, read off an image of coordinates, fill the range asked for."""
    transform = T.PretrainCrop(64, crop_scale_min=crop_scale_min, hflip=0.0)
    image, spans = coordinates(400, 400), []
    for index in range(300):
        with sample_randomness(0, 0, index):
            tensor = transform(np.array(image)).numpy() / 250  # 0..1 of the image's width and height
        spans.append((np.ptp(tensor[0]), np.ptp(tensor[1])))
    width, height = np.array(spans).T * 64 / 63  # the span is between the centres of the outer pixels
    assert (width * height).min() > crop_scale_min * 0.9
    assert (width * height).min() < crop_scale_min + 0.1
    assert (width * height).max() > 0.9
    assert 0.7 < (width / height).min() < 0.85
    assert 1.2 < (width / height).max() < 1.4


def test_flipping_mirrors_the_same_crop() -> None:
    """With the same randomness, hflip=1 gives the mirror image of hflip=0; hflip=0.5 gives either."""
    image = noise(80, 70)
    results = {}
    for hflip in (0.0, 0.5, 1.0):
        transform = T.PretrainCrop(32, crop_scale_min=0.3, hflip=hflip)
        for index in range(60):
            with sample_randomness(0, 0, index):
                results[hflip, index] = transform(np.array(image))
    flips = 0
    for index in range(60):
        assert torch.equal(results[1.0, index], results[0.0, index].flip(-1))
        flips += torch.equal(results[0.5, index], results[1.0, index])
    assert 15 < flips < 45


def test_classify_train_leaves_colours_alone_unless_asked() -> None:
    """Without auto_augment and erasing the only changes are geometric: timm's colour jitter stays off."""
    transform = T.classify_train(32, crop_scale_min=0.3, hflip=0.5, auto_augment=None, re_prob=0.0)
    image = Image.new("RGB", (50, 40), (200, 100, 30))
    for index in range(20):
        with sample_randomness(0, 0, index):
            tensor = transform(np.array(image))
        np.testing.assert_allclose(tensor.numpy(), normalised(Image.new("RGB", (32, 32), (200, 100, 30))), atol=1e-6)


def test_classify_train_augments_and_erases_when_asked() -> None:
    """RandAugment changes colours of a plain image; erasing covers a part of it with noise."""
    image = Image.new("RGB", (50, 40), (200, 100, 30))
    expected = torch.from_numpy(normalised(Image.new("RGB", (32, 32), (200, 100, 30)))).float()
    changed = {}
    for name, auto_augment, re_prob in (("augment", "rand-m9-mstd0.5-inc1", 0.0), ("erase", None, 1.0)):
        transform = T.classify_train(32, crop_scale_min=0.3, hflip=0.5, auto_augment=auto_augment, re_prob=re_prob)
        shares = []
        for index in range(20):
            with sample_randomness(0, 0, index):
                shares.append(((transform(np.array(image)) - expected).abs().amax(dim=0) > 0.05).float().mean().item())
        changed[name] = shares
    assert max(changed["augment"]) > 0.9
    assert all(0 < share < 0.6 for share in changed["erase"])


def coloured_mask(width: int, height: int, block: int = 10) -> tuple[Image.Image, np.ndarray]:
    """A mask of blocks of classes 0..9, and an image that carries them in red (20 + 20 x class)."""
    blocks = np.random.default_rng(1).integers(10, size=(height // block + 1, width // block + 1), dtype=np.uint8)
    mask = np.kron(blocks, np.ones((block, block), np.uint8))[:height, :width]
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 20 + 20 * mask
    return Image.fromarray(image), mask


def red_classes(tensor: torch.Tensor) -> torch.Tensor:
    """The class that the red channel tells."""
    return (((tensor[0] + 1) / 2 * 255 - 20) / 20).round().long()


@pytest.mark.parametrize("hflip", [0.0, 1.0])
def test_crop_and_flip_move_image_and_mask_together(hflip: float) -> None:
    """At scale 1 nothing is interpolated: every pixel of the image still carries the class in the mask."""
    transform = T.segment_train(60, scale_min=1.0, scale_max=1.0, hflip=hflip)
    image, mask = coloured_mask(90, 60)
    for index in range(20):
        with sample_randomness(0, 0, index):
            tensor, classes = transform(np.array(image), mask)
        assert (tensor.shape, classes.shape, classes.dtype) == ((3, 60, 60), (60, 60), torch.int64)
        assert torch.equal(red_classes(tensor), classes)


@pytest.mark.slow(seconds=4)
def test_scaling_keeps_image_and_mask_together() -> None:
    """Enlarged or shrunk, image and mask still agree except along the borders of classes."""
    transform = T.segment_train(60, scale_min=0.7, scale_max=2.0, hflip=0.5)
    image, mask = coloured_mask(240, 180, block=40)
    for index in range(20):
        with sample_randomness(0, 0, index):
            tensor, classes = transform(np.array(image), mask)
        inside = classes != IGNORE
        values = classes[None].float()
        highest, lowest = max_pool2d(values, 5, 1, 2)[0], -max_pool2d(-values, 5, 1, 2)[0]
        settled = inside & (highest == lowest)  # two pixels away from borders between classes,
        settled &= torch.nn.functional.pad(torch.ones(56, 56), (2, 2, 2, 2)).bool()  # and from those of the crop
        assert settled.sum() > 200
        assert torch.equal(red_classes(tensor)[settled], classes[settled])


def test_what_a_crop_lacks_is_ignored() -> None:
    """Where a shrunk image does not fill the crop, below and on the right, the mask is 255 and the image mean grey."""
    transform = T.segment_train(60, scale_min=0.5, scale_max=0.5, hflip=0.5, photometric=True)
    image, mask = coloured_mask(60, 60)  # no grey level of 8 bits normalises to 0
    for index in range(10):
        with sample_randomness(0, 0, index):
            tensor, classes = transform(np.array(image), mask)
        padded = torch.ones(60, 60, dtype=torch.bool)
        padded[:30, :30] = False
        assert torch.equal(classes == IGNORE, padded)
        assert torch.equal((tensor == 0).all(0), padded)


def test_scales_cover_their_range_evenly() -> None:
    """The shorter side lies between scale_min and scale_max times the image size, both ends included."""
    transform = T.segment_train(10, scale_min=0.5, scale_max=0.8, hflip=0.0)
    image, mask = Image.new("RGB", (40, 40), "white"), np.zeros((40, 40), np.uint8)
    sides = set()
    for index in range(200):
        with sample_randomness(0, 0, index):
            _, classes = transform(np.array(image), mask)
        sides.add(round(int((classes != IGNORE).sum()) ** 0.5))
    assert sides == {5, 6, 7, 8}


def test_segment_eval_resizes_the_image_and_keeps_the_mask() -> None:
    """The whole image at every scale asked for, aspect kept, each from the original; the mask at its own size."""
    image, mask = coloured_mask(90, 60)
    mask[0, :5] = IGNORE
    tensors, classes = T.segment_eval(40, 90)(np.array(image), mask)
    np.testing.assert_array_equal(classes.numpy(), mask)
    for tensor, (width, height) in zip(tensors, ((60, 40), (135, 90)), strict=True):
        assert tensor.shape == (3, height, width)
        expected = normalised(image.resize((width, height), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(tensor.numpy(), expected, atol=2.1 * LEVEL)


def crop_places(mask: np.ndarray, size: int, ratio: float, draws: int) -> list[tuple[int, int, np.ndarray]]:
    """(top, left, crop) of many draws, read off an image whose pixels are numbered."""
    numbers = tv_tensors.Image(torch.arange(mask.size).reshape(1, *mask.shape))
    crop, found = T.VariedCrop(size, ratio), []
    for index in range(draws):
        with sample_randomness(0, 0, index):
            pixels, classes = crop(numbers, tv_tensors.Mask(torch.from_numpy(mask)))
        top, left = divmod(int(pixels[0, 0, 0]), mask.shape[1])
        np.testing.assert_array_equal(classes, mask[top : top + size, left : left + size])
        found.append((top, left, np.asarray(classes)))
    return found


def test_crops_that_one_class_fills_are_drawn_anew() -> None:
    """A crop with too much of one class (255 left out) needs eleven such draws in a row, and without a ratio one."""
    mask = np.zeros((40, 200), np.uint8)
    mask[:, 80:110] = 1
    mask[:20, 110:140] = IGNORE

    def share(crop: np.ndarray) -> float:
        pixels = np.unique(crop[crop != IGNORE], return_counts=True)[1]
        return float(pixels.max() / pixels.sum())

    poor = np.mean([share(mask[:, left : left + 40]) >= 0.75 for left in range(161)])  # of all places
    for ratio, expected in ((1.0, poor), (0.75, poor**11)):
        shares = np.array([share(crop) for *_, crop in crop_places(mask, 40, ratio, 600)])
        assert np.mean(shares >= 0.75) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 600) ** 0.5)
    assert poor == pytest.approx(0.75, abs=0.05)


def test_crops_of_a_single_class_are_taken_after_ten_more_draws() -> None:
    """Where there is nothing better the eleventh draw stands, as in mmsegmentation; its random numbers tell."""
    mask = np.full((30, 50), 3, np.uint8)
    mask[5:, :20] = IGNORE
    for index, (top, left, _) in enumerate(crop_places(mask, 20, 0.75, 20)):
        with sample_randomness(0, 0, index):
            draws = [(int(torch.randint(11, ())), int(torch.randint(31, ()))) for _ in range(11)]
        assert (top, left) == draws[-1]


def test_crops_are_drawn_from_the_whole_image() -> None:
    """Every place is as likely as any other; an image smaller than the crop is taken whole."""
    mask = np.zeros((21, 22), np.uint8)
    places = Counter((top, left) for top, left, _ in crop_places(mask, 20, 1.0, 600))
    assert set(places) == {(top, left) for top in (0, 1) for left in (0, 1, 2)}
    assert min(places.values()) > 60
    assert {(top, left) for top, left, _ in crop_places(mask, 30, 0.75, 3)} == {(0, 0)}


def test_photometric_distortion_changes_colours_alone() -> None:
    """Same randomness, same crop and mask; colours change in about 15 of 16 images and channels keep their order."""
    plain, distorted = (
        T.segment_train(60, scale_min=0.7, scale_max=2.0, hflip=0.5, photometric=photometric)
        for photometric in (False, True)
    )
    image, mask = coloured_mask(120, 90)
    changed = 0
    for index in range(100):
        with sample_randomness(0, 0, index):
            before, classes = plain(np.array(image), mask)
        with sample_randomness(0, 0, index):
            after, same_classes = distorted(np.array(image), mask)
        assert torch.equal(classes, same_classes)
        changed += not torch.equal(before, after)
        assert (after[0] >= after[1] - LEVEL).all()  # hue turns by a tenth at most: red stays the strongest
        assert (after[0] >= after[2] - LEVEL).all()
    assert 85 <= changed < 100


@pytest.mark.parametrize(
    ("kept", "colour", "lowest", "highest"),
    [
        ("brightness_factor", (200, 100, 60), 200 * (1 - 32 / 255), 200 * (1 + 32 / 255)),
        ("hue_factor", (200, 100, 100), 200, 200),
    ],
)
def test_photometric_ranges_are_mmsegmentations(
    monkeypatch: pytest.MonkeyPatch, kept: str, colour: tuple[int, int, int], lowest: float, highest: float
) -> None:
    """Brightness moves 200 by up to 32 of 255 either way; hue (+-18 of 180: 36 degrees) leaves the strongest."""
    distortion = T.PhotometricDistortion()
    draw = distortion.make_params
    monkeypatch.setattr(
        distortion,
        "make_params",
        lambda inputs: {name: value if name == kept else None for name, value in draw(inputs).items()},
    )
    pixels, red, turned = torch.tensor(colour, dtype=torch.uint8)[:, None, None], [], []
    for index in range(400):
        with sample_randomness(0, 0, index):
            result = distortion(tv_tensors.Image(pixels)).flatten().tolist()
        red.append(result[0])
        turned.append(max(result[1], result[2]))
    assert min(red) == pytest.approx(lowest, abs=1.5)
    assert max(red) == pytest.approx(highest, abs=1.5)
    if kept == "hue_factor":
        assert max(turned) == pytest.approx(100 + 0.6 * 100, abs=2)  # 36 of the 60 degrees to yellow or magenta


def test_segmentation_augmentation_belongs_to_the_sample() -> None:
    """Every draw comes from the sample's generators: the same place gives the same tensors, another does not."""
    transform = T.segment_train(40, scale_min=0.5, scale_max=2.0, hflip=0.5, cat_max_ratio=0.5, photometric=True)
    image, mask = coloured_mask(120, 90)
    results = []
    for place in ((0, 7), (0, 8), (0, 7)):
        torch.randn(3)  # other work in between
        with sample_randomness(0, *place):
            results.append(transform(np.array(image), mask))
    assert torch.equal(results[0][0], results[2][0])
    assert torch.equal(results[0][1], results[2][1])
    assert not torch.equal(results[0][0], results[1][0])


def test_crops_are_resized_as_torchvision_does() -> None:
    """The same place gives the very pixels of torchvision's resized_crop: kernel, antialiasing and rounding."""
    transform = T.PretrainCrop(32, crop_scale_min=0.2, hflip=0.0)
    image = np.array(noise(80, 70))
    for index in range(50):
        with sample_randomness(0, 0, index):
            top, left, height, width = transform.draw(70, 80)
        with sample_randomness(0, 0, index):
            found = transform(image)
        expected = v2.functional.resized_crop(T.as_image(image), top, left, height, width, [32, 32], antialias=True)
        assert torch.equal(found, expected)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (20, 200), (300, 40)])
def test_crops_are_distributed_as_torchvision_draws_them(height: int, width: int) -> None:
    """Heights, widths and places agree with RandomResizedCrop's (two-sample Kolmogorov-Smirnov), extreme shapes too."""
    ours, theirs = T.PretrainCrop(32, crop_scale_min=0.2, hflip=0.0), v2.RandomResizedCrop(32, scale=(0.2, 1.0))
    image, drawn = torch.zeros(3, height, width), {"ours": [], "theirs": []}
    for index in range(3000):
        with sample_randomness(0, 0, index):
            drawn["ours"].append(ours.draw(height, width))
        with sample_randomness(1, 0, index):
            place = theirs.make_params([image])
            drawn["theirs"].append(tuple(place[name] for name in ("top", "left", "height", "width")))
    for first, second in zip(*(np.array(places).T for places in drawn.values()), strict=True):
        assert stats.ks_2samp(first, second).pvalue > 1e-4
