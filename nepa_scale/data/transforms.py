"""From pixels to tensors: one pair of transforms (training, evaluation) for each task.

Images are normalised as a ``Standardisation`` says, by default to [-1, 1]; those of pre-training stay bytes until they
are on the device. In mask tensors classes count from 0 and ``IGNORE`` marks unlabelled pixels.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.nn.functional import interpolate as resize
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from nepa_scale.data.decode import IGNORE
from nepa_scale.data.operations import Steps, prepare_policy
from nepa_scale.data.preprocessing import PAPERS, Standardisation

ImageTransform = Callable[[NDArray[np.uint8]], Tensor]
JointTransform = Callable[[NDArray[np.uint8], NDArray[np.uint8]], tuple[Tensor, Tensor]]
PyramidTransform = Callable[[NDArray[np.uint8], NDArray[np.uint8]], tuple[tuple[Tensor, ...], Tensor]]
Transform = ImageTransform | JointTransform | PyramidTransform


def as_image(pixels: NDArray[np.uint8]) -> Tensor:
    """Pixels [H, W, 3] as a tensor [3, H, W] that shares their memory."""
    return torch.from_numpy(pixels).permute(2, 0, 1)


def normalise(images: Tensor, standard: Standardisation = PAPERS) -> Tensor:
    """Pixels 0..255 [..., 3, H, W] to ``(x / 255 - mean) / std`` in float32, on the images' device."""
    scales = [1 / (255 * std) for std in standard.std]
    shifts = [mean / std for mean, std in zip(standard.mean, standard.std, strict=True)]
    if len({*scales}) == len({*shifts}) == 1:
        return images.to(torch.float32).mul_(scales[0]).sub_(shifts[0])
    scale, shift = (_by_channel(tuple(values), images.device) for values in (scales, shifts))
    return images.to(torch.float32).mul_(scale).sub_(shift)


@functools.cache
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """``values`` as [C, 1, 1], made once: the copy to a GPU would make the host wait for each batch."""
    return torch.tensor(values, device=device)[:, None, None]


def _normalise(standard: Standardisation) -> list[v2.Transform]:
    """Pixels 0..255 to ``(x / 255 - mean) / std``; masks pass through."""
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(standard.mean, standard.std)]


class PretrainCrop:
    """Random resized crop (bilinear) and flip: NEPA's whole pre-training augmentation. Gives [3, S, S] uint8.

    What torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip`` do, with its resizing kernel and without its
    dispatch, which for small images takes as long as decoding and resizing together.
    """

    TRIES = 10
    LOG_RATIO = (math.log(3 / 4), math.log(4 / 3))

    def __init__(self, image_size: int, *, crop_scale_min: float, hflip: float) -> None:
        self._size, self._scale_min, self._hflip = (image_size, image_size), crop_scale_min, hflip

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        top, left, height, width = self.draw(*pixels.shape[:2])
        crop = as_image(pixels[top : top + height, left : left + width])
        image = resize(crop[None], self._size, mode="bilinear", antialias=True)[0]
        return image.flip(-1) if random.random() < self._hflip else image

    def draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a crop: area and log aspect ratio uniform, then its place.

        If ten draws in a row do not fit into the image, the largest centred crop of a permitted ratio is taken.
        """
        for _ in range(self.TRIES):
            area = random.uniform(self._scale_min, 1.0) * height * width
            ratio = math.exp(random.uniform(*self.LOG_RATIO))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                return random.randint(0, height - high), random.randint(0, width - wide), high, wide
        narrowest, widest = (math.exp(bound) for bound in self.LOG_RATIO)
        high = min(height, round(width / narrowest))
        wide = min(width, round(height * widest))
        return (height - high) // 2, (width - wide) // 2, high, wide


def pretrain_eval(image_size: int) -> ImageTransform:
    """Shorter side to ``image_size`` (bilinear), centre crop. Gives [3, S, S] uint8."""

    def transform(pixels: NDArray[np.uint8]) -> Tensor:
        image = F.resize_image(as_image(pixels), [image_size], antialias=True)
        return F.center_crop_image(image, [image_size, image_size])

    return transform


def classify_train(
    image_size: int,
    *,
    crop_scale_min: float,
    hflip: float,
    auto_augment: str | None,
    re_prob: float,
    standard: Standardisation = PAPERS,
) -> ImageTransform:
    """timm's recipe: random resized crop (bicubic), flip, ``auto_augment``, random erasing: [3, S, S]."""
    return TimmTransform(
        image_size,
        standard,
        is_training=True,
        scale=(crop_scale_min, 1.0),
        hflip=hflip,
        # No jitter. At 0 timm still draws the order of its operations, as it does where the published numbers are from;
        # nothing but erasing draws after it.
        color_jitter=0.0 if re_prob else None,
        auto_augment=auto_augment,
        re_prob=re_prob,
        re_mode="pixel",
        re_count=1,
    )


def classify_eval(
    image_size: int, *, crop_pct: float, crop_mode: str = "center", standard: Standardisation = PAPERS
) -> ImageTransform:
    """Shorter side to ``image_size / crop_pct`` (bicubic, rounded down), centre crop. Gives [3, S, S].

    With ``crop_mode="squash"`` both sides are resized to that length, whatever the image's shape.
    """
    return TimmTransform(image_size, standard, crop_pct=crop_pct, crop_mode=crop_mode)


class TimmTransform:
    """timm's transform of a recipe, ``timm``; it works on PIL images, as the published numbers do."""

    def __init__(self, image_size: int, standard: Standardisation, **recipe: Any) -> None:
        self.timm: Any = create_transform(
            image_size, interpolation="bicubic", mean=standard.mean, std=standard.std, **recipe
        )
        for step in self.timm.transforms:
            prepare_policy(step)
        names = [type(step).__name__ for step in self.timm.transforms]
        first = names.index("Normalize") - 1
        self._drawn, self._erasing = Steps(self.timm.transforms[:first]), Steps(self.timm.transforms[first + 2 :])
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (standard.mean, standard.std))

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        image: Tensor = self._erasing(self._as_tensor(self._drawn(Image.fromarray(pixels))))
        return image

    def _as_tensor(self, image: Image.Image) -> Tensor:
        """torchvision's ``ToTensor`` and ``Normalize`` in the same arithmetic, without their checks of each image."""
        values = as_image(np.array(image)).to(torch.float32, memory_format=torch.contiguous_format)
        return values.div_(255).sub_(self._mean).div_(self._std)


def segment_train(
    image_size: int,
    *,
    scale_min: float,
    scale_max: float,
    hflip: float,
    cat_max_ratio: float = 1.0,
    photometric: bool = False,
    standard: Standardisation = PAPERS,
) -> JointTransform:
    """Resize, crop, flip and discolour as mmsegmentation does. Gives image [3, S, S] and mask [S, S] int64.

    The shorter side becomes ``image_size`` times a factor in [scale_min, scale_max]; what an image lacks of the crop
    is added below and on the right, as ``standard``'s mean in the image and ``IGNORE`` in the mask.
    """
    smallest, largest = (max(1, round(image_size * scale)) for scale in (scale_min, scale_max))
    joint = Steps(
        [
            v2.RandomResize(smallest, largest + 1, antialias=True),
            VariedCrop(image_size, cat_max_ratio),
            v2.RandomHorizontalFlip(hflip),
            *([PhotometricDistortion()] if photometric else []),
            *_normalise(standard),
            _FillUp(image_size, by_image=standard.by_image),
            v2.ToPureTensor(),
        ]
    )

    def transform(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        pixels, classes = joint(tv_tensors.Image(as_image(image)), tv_tensors.Mask(torch.from_numpy(mask)))
        return pixels, classes.long()

    return transform


def segment_eval(*sides: int, standard: Standardisation = PAPERS) -> PyramidTransform:
    """Resize the whole image so that its shorter side is each of ``sides``; leave the mask as it is.

    Gives an image [3, h, w] with min(h, w) = S for each S, and the mask [H, W] int64 in the size it was annotated at.
    """
    resizes = [v2.Compose([v2.Resize(side, antialias=True), *_normalise(standard)]) for side in sides]

    def transform(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[tuple[Tensor, ...], Tensor]:
        pixels = tv_tensors.Image(as_image(image))
        return tuple(resize(pixels).as_subclass(Tensor) for resize in resizes), torch.from_numpy(mask).long()

    return transform


class VariedCrop(v2.Transform):
    """Crop at random to ``size`` at most, not filled by one class (mmsegmentation's ``RandomCrop``).

    While one class covers ``cat_max_ratio`` of the crop's labelled pixels or more, or is the only one, another crop is
    drawn, ten times at most; the last one is taken as it is. At ratio 1 the first one is.
    """

    REDRAWS = 10

    def __init__(self, size: int, cat_max_ratio: float) -> None:
        super().__init__()
        self.size, self.cat_max_ratio = size, cat_max_ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Top, left, height and width of the crop."""
        mask = next(item for item in flat_inputs if isinstance(item, tv_tensors.Mask))
        crop = self._draw(mask)
        for _ in range(self.REDRAWS if self.cat_max_ratio < 1 else 0):
            if self._is_varied(F.crop(mask, **crop)):
                break
            crop = self._draw(mask)
        return crop

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop image or mask."""
        return F.crop(inpt, **params)

    def _draw(self, mask: Tensor) -> dict[str, int]:
        height, width = (min(self.size, side) for side in mask.shape[-2:])
        top, left = (int(torch.randint(side - min(self.size, side) + 1, ())) for side in mask.shape[-2:])
        return {"top": top, "left": left, "height": height, "width": width}

    def _is_varied(self, crop: Tensor) -> bool:
        pixels = torch.bincount(crop[crop != IGNORE].long())
        return bool(torch.count_nonzero(pixels) > 1 and pixels.max() < self.cat_max_ratio * pixels.sum())


class PhotometricDistortion(v2.RandomPhotometricDistort):
    """Each with probability 1/2: brightness, saturation, hue, and contrast before or after these two.

    The ranges are mmsegmentation's ``PhotoMetricDistortion``: brightness by 32 of 255, contrast and saturation by a
    half, hue by 18 of 180. torchvision's operations differ a little: brightness is scaled, not shifted, and contrast
    changes around the image's mean. mmsegmentation does not permute channels, as torchvision would.
    """

    def __init__(self) -> None:
        super().__init__(
            brightness=(1 - 32 / 255, 1 + 32 / 255), contrast=(0.5, 1.5), saturation=(0.5, 1.5), hue=(-0.1, 0.1)
        )

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """torchvision's draws without the permutation."""
        return {**super().make_params(flat_inputs), "channel_permutation": None}


class _FillUp(v2.Transform):
    """Pad below and on the right to ``size``: a normalised image with 0, which is the mean, a mask with ``IGNORE``.

    ``by_image``: the image with its own mean, which the model is going to subtract.
    """

    def __init__(self, size: int, *, by_image: bool) -> None:
        super().__init__()
        self.size, self.by_image = size, by_image

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Pad image or mask."""
        height, width = inpt.shape[-2:]
        fill: float | list[float] = IGNORE if isinstance(inpt, tv_tensors.Mask) else 0
        if self.by_image and not fill:
            fill = inpt.mean((-2, -1)).tolist()
        return F.pad(inpt, [0, 0, self.size - width, self.size - height], fill=fill)
