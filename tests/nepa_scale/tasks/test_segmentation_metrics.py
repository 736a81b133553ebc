"""Figures from a confusion matrix, against closed forms and torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from nepa_scale.tasks import segmentation_metrics


def test_figures_are_torchmetrics() -> None:
    """Where every class occurs, mIoU, pixel and mean accuracy are those of torchmetrics."""
    generator = torch.Generator().manual_seed(0)
    truth, predicted = (torch.randint(0, 6, (2000,), generator=generator) for _ in range(2))
    matrix = multiclass_confusion_matrix(predicted, truth, 6)
    expected = multiclass_jaccard_index(predicted, truth, 6, average=None)
    torch.testing.assert_close(segmentation_metrics.iou_per_class(matrix).float(), expected)
    assert segmentation_metrics.miou(matrix) == pytest.approx(expected.mean().item(), abs=1e-6)
    for average, figure in (
        ("micro", segmentation_metrics.pixel_accuracy),
        ("macro", segmentation_metrics.mean_accuracy),
    ):
        assert figure(matrix) == pytest.approx(multiclass_accuracy(predicted, truth, 6, average=average).item())


def test_absent_classes_do_not_count() -> None:
    """Class 2 is only predicted: IoU 0, no accuracy. Class 3 is nowhere: neither."""
    matrix = torch.tensor([[6, 2, 0, 0], [1, 4, 3, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    ious = segmentation_metrics.iou_per_class(matrix).tolist()
    assert ious[:3] == pytest.approx([6 / 9, 4 / 10, 0])
    assert math.isnan(ious[3])
    assert segmentation_metrics.miou(matrix) == pytest.approx((6 / 9 + 4 / 10) / 3)
    assert segmentation_metrics.mean_accuracy(matrix) == pytest.approx((6 / 8 + 4 / 8) / 2)
    assert segmentation_metrics.pixel_accuracy(matrix) == pytest.approx(10 / 16)


@pytest.mark.parametrize(
    ("pixels", "expected"), [([6, 3, 1], 0.2), ([10], 1.0), ([5, 5, 0, 0], 0.25), ([0, 0, 7, 1], 0.4375)]
)
def test_majority_miou_closed_form(pixels: list[int], expected: float) -> None:
    """One class everywhere: its IoU is its share of the pixels, all other classes present have 0."""
    matrix = torch.diag(torch.tensor(pixels))
    assert segmentation_metrics.majority_miou(matrix) == pytest.approx(expected, abs=1e-12)
