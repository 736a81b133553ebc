"""Metrics of segmentation, from confusion matrices [C, C] that count pixels by [true class, predicted class].

A class that neither a mask nor a prediction holds has no IoU and does not enter mIoU; one that is only predicted
has IoU 0. Classes that no mask holds do not enter the mean accuracy either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from nepa_scale.data.decode import IGNORE

STRIP_ROWS = 64


class Variant(NamedTuple):
    """A form in which an image is scored: its shorter side relative to image_size, and mirrored or not."""

    scale: float
    mirrored: bool


PLAIN = Variant(1.0, mirrored=False)
#: mmsegmentation's test-time augmentation.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
MULTI_SCALE = tuple(Variant(scale, mirrored) for scale in SCALES for mirrored in (False, True))


class SegmentationMetrics:
    """Adds up, image by image, the confusion of the plain form, that of the mean over all forms, and the plain loss."""

    def __init__(self, num_classes: int, variants: Sequence[Variant], device: torch.device) -> None:
        self._variants = variants
        self.plain, self.merged = (
            # the data set has checked the masks: torchmetrics' own check sorts all pixels
            MulticlassConfusionMatrix(num_classes, ignore_index=IGNORE, validate_args=False, sync_on_compute=False).to(
                device
            )
            for _ in range(2)
        )
        self._loss = torch.zeros((), dtype=torch.float64, device=device)

    def add(self, scores: Iterator[Tensor], mask: Tensor) -> None:
        """Count one image: take its scores [C, h, w] in every form, and its mask [H, W].

        Scores are enlarged to the mask's size form by form. Photographs of millions of pixels make them gigabytes,
        so what is worked out from them is done in strips.
        """
        merged: Tensor | None = None
        for variant in self._variants:
            full = F.interpolate(next(scores)[None], size=mask.shape, mode="bilinear", align_corners=False)[0]
            if variant == PLAIN:
                self.plain.update(full.argmax(dim=0), mask)
                self._loss += sum(_cross_entropy(*strip) for strip in _strips(full, mask))
            if len(self._variants) > 1:
                merged = torch.zeros_like(full) if merged is None else merged
                _add_probabilities(merged, full)
            del full  # before the next form's is made
        if merged is not None:
            self.merged.update(merged.argmax(dim=0), mask)

    def state(self) -> list[Tensor]:
        """What is to be summed over the ranks, in place."""
        return [self.plain.confmat, self.merged.confmat, self._loss]

    def compute(self) -> dict[str, float]:
        """The metrics of all images added."""
        plain, merged = self.plain.confmat, self.merged.confmat
        metrics = {
            "miou": miou(plain),
            "pixel_accuracy": pixel_accuracy(plain),
            "mean_accuracy": mean_accuracy(plain),
            "loss": float(self._loss / plain.sum()),
            "miou_majority": majority_miou(plain),
        }
        if len(self._variants) > 1:
            metrics["miou_multi_scale"] = miou(merged)
            metrics["pixel_accuracy_multi_scale"] = pixel_accuracy(merged)
        return metrics


def _strips(scores: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of views of some rows of two tensors [..., H, W]."""
    return zip(scores.split(STRIP_ROWS, dim=-2), other.split(STRIP_ROWS, dim=-2), strict=True)


def _add_probabilities(total: Tensor, scores: Tensor) -> None:
    for sums, part in _strips(total, scores):
        sums.add_(part.softmax(dim=0))


def _cross_entropy(scores: Tensor, mask: Tensor) -> Tensor:
    return F.cross_entropy(scores[None], mask[None], ignore_index=IGNORE, reduction="sum").double()


def iou_per_class(matrix: Tensor) -> Tensor:
    """Intersection over union of each class [C], float64; NaN for a class in neither mask nor prediction."""
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())


def miou(matrix: Tensor) -> float:
    """Mean IoU over the classes that occur."""
    return float(iou_per_class(matrix).nanmean())


def pixel_accuracy(matrix: Tensor) -> float:
    """Fraction of the labelled pixels that are right."""
    return float(matrix.diagonal().sum() / matrix.sum().double())


def mean_accuracy(matrix: Tensor) -> float:
    """Fraction of a class's pixels that are right, averaged over the classes in the masks (mmsegmentation's mAcc)."""
    return float((matrix.diagonal().double() / matrix.sum(1)).nanmean())


def majority_miou(matrix: Tensor) -> float:
    """mIoU of the most frequent class everywhere: its fraction of the pixels, averaged over the classes present."""
    pixels = matrix.sum(1)
    fraction = pixels.max() / pixels.sum().double()
    return float(fraction / torch.count_nonzero(pixels))
