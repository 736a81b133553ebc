"""From encoded bytes to tensors: decoding, and one pair of transforms (training, evaluation) for each task.

Images are normalised to mean 0.5, standard deviation 0.5 per channel, so pixels lie in [-1, 1]. In mask
tensors classes count from 0 and ``IGNORE`` marks unlabelled pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from nepa_scale.errors import DataError

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
IGNORE = 255

ImageTransform = Callable[[Image.Image], Tensor]
JointTransform = Callable[[Image.Image, NDArray[np.uint8]], tuple[Tensor, Tensor]]


def decode_rgb(content: bytes) -> Image.Image:
    """Decode an image as RGB; EXIF orientation is not applied, to image or mask. Raises ``DataError``."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the image cannot be decoded: {_first_line(error)}") from None


def decode_mask(content: bytes) -> NDArray[np.uint8]:
    """Decode a stored mask to classes [H, W] uint8: stored 0 becomes ``IGNORE``, stored k becomes k - 1.

    Raises ``DataError``.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode not in {"L", "P"}:
                raise DataError(f"the mask must be an 8-bit one-channel PNG, its mode is {image.mode}")
            stored = np.asarray(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the mask cannot be decoded: {_first_line(error)}") from None
    return stored - np.uint8(1)  # unsigned: 0 wraps round to 255, which is IGNORE


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _normalise() -> list[v2.Transform]:
    """Pixels 0..255 to [-1, 1]; masks pass through."""
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]


def pretrain_train(image_size: int, *, crop_scale_min: float, hflip: float) -> ImageTransform:
    """Random resized crop (bilinear) and flip: NEPA's whole pre-training augmentation. Gives [3, S, S]."""
    crop = v2.RandomResizedCrop(image_size, scale=(crop_scale_min, 1.0), antialias=True)
    transform: ImageTransform = v2.Compose([v2.PILToTensor(), crop, v2.RandomHorizontalFlip(hflip), *_normalise()])
    return transform


def pretrain_eval(image_size: int) -> ImageTransform:
    """Shorter side to ``image_size`` (bilinear), centre crop. Gives [3, S, S]."""
    resize = v2.Resize(image_size, antialias=True)
    transform: ImageTransform = v2.Compose([v2.PILToTensor(), resize, v2.CenterCrop(image_size), *_normalise()])
    return transform


def classify_train(
    image_size: int, *, crop_scale_min: float, hflip: float, auto_augment: str | None, re_prob: float
) -> ImageTransform:
    """timm's recipe: random resized crop (bicubic), flip, ``auto_augment``, random erasing: [3, S, S]."""
    transform: ImageTransform = create_transform(
        image_size,
        is_training=True,
        scale=(crop_scale_min, 1.0),
        hflip=hflip,
        color_jitter=0.0,  # timm's default of 0.4 would come back without auto_augment
        auto_augment=auto_augment,
        interpolation="bicubic",
        mean=MEAN,
        std=STD,
        re_prob=re_prob,
        re_mode="pixel",
        re_count=1,
    )
    return transform


def classify_eval(image_size: int, *, crop_pct: float, crop_mode: str = "center") -> ImageTransform:
    """Shorter side to ``image_size / crop_pct`` (bicubic, rounded down), centre crop. Gives [3, S, S].

    With ``crop_mode="squash"`` both sides are resized to that length, whatever the image's shape.
    """
    transform: ImageTransform = create_transform(
        image_size, crop_pct=crop_pct, crop_mode=crop_mode, interpolation="bicubic", mean=MEAN, std=STD
    )
    return transform


def segment_train(image_size: int, *, scale_min: float, scale_max: float, hflip: float) -> JointTransform:
    """Resize, crop and flip image and mask together. Gives image [3, S, S] and mask [S, S] int64.

    The shorter side becomes ``image_size`` times a factor in [scale_min, scale_max]; what a crop lacks is
    black in the image and ``IGNORE`` in the mask.
    """
    smallest, largest = round(image_size * scale_min), round(image_size * scale_max)
    joint = v2.Compose(
        [
            v2.RandomResize(smallest, largest + 1, antialias=True),
            v2.RandomCrop(image_size, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}),
            v2.RandomHorizontalFlip(hflip),
            *_normalise(),
            v2.ToPureTensor(),
        ]
    )
    return _Joint(joint)


def segment_eval(image_size: int) -> JointTransform:
    """Resize the whole image so that its shorter side is ``image_size``; leave the mask as it is.

    Gives image [3, h, w] with min(h, w) = S and mask [H, W] int64 in the size it was annotated at.
    """
    resize = v2.Resize(image_size, antialias=True)
    return _ImageOnly(v2.Compose([v2.PILToTensor(), resize, *_normalise()]))


class _Joint:
    """Apply one random transform to an image and its mask alike."""

    def __init__(self, transform: v2.Transform) -> None:
        self._transform = transform

    def __call__(self, image: Image.Image, mask: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        pair = tv_tensors.Image(v2.functional.pil_to_tensor(image)), tv_tensors.Mask(torch.from_numpy(mask))
        pixels, classes = self._transform(*pair)
        return pixels, classes.long()


class _ImageOnly:
    """Apply a transform to the image and give the mask back unchanged."""

    def __init__(self, transform: v2.Transform) -> None:
        self._transform = transform

    def __call__(self, image: Image.Image, mask: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        return self._transform(image), torch.from_numpy(mask).long()
