"""Segmentation's figures from a confusion matrix [C, C]: pixels by [true class, predicted class].

A class that neither a mask nor a prediction holds has no IoU and does not enter mIoU; one that is only predicted
has IoU 0. Classes that no mask holds do not enter the mean accuracy either.
"""

from __future__ import annotations

import torch
from torch import Tensor


def iou_per_class(matrix: Tensor) -> Tensor:
    """Intersection over union of each class [C], float64; NaN for a class in neither mask nor prediction."""
    hits = matrix.diagonal().double()
    return hits / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())


def miou(matrix: Tensor) -> float:
    """Mean IoU over the classes that occur."""
    return float(iou_per_class(matrix).nanmean())


def pixel_accuracy(matrix: Tensor) -> float:
    """Share of the labelled pixels that are right."""
    return float(matrix.diagonal().sum() / matrix.sum().double())


def mean_accuracy(matrix: Tensor) -> float:
    """Share of a class's pixels that are right, averaged over the classes in the masks (mmsegmentation's mAcc)."""
    return float((matrix.diagonal().double() / matrix.sum(1)).nanmean())


def majority_miou(matrix: Tensor) -> float:
    """mIoU of the most frequent class everywhere: its share of the pixels, averaged over the classes present."""
    pixels = matrix.sum(1)
    share = pixels.max() / pixels.sum().double()
    return float(share / torch.count_nonzero(pixels))
