"""Segmentation: its loss, and its metrics against a confusion matrix in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_oracle import IGNORE, confusion_of, miou_of, write_masked
from small_tasks import CPU, config_of, images_of, with_random_weights

from nepa_scale.config.ladder import quarter_blocks
from nepa_scale.distributed.world import World
from nepa_scale.tasks.segment import Segment


def predictions(task: Segment) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(mask, predicted classes) of the validation images, each a single window.

    Scored in one batch, as evaluation does: in another, rounding may turn a tie between two classes.
    """
    pairs, module = [], task.module.eval()
    pyramids, masks = zip(*images_of(task), strict=True)
    images = [image for (image,) in pyramids]
    with torch.no_grad():
        for scores, mask in zip(module.logits(torch.stack(images)), masks, strict=True):
            full = F.interpolate(scores[None], tuple(mask.shape), mode="bilinear", align_corners=False)
            pairs.append((mask.numpy(), full[0].argmax(0).numpy()))
    return pairs


@pytest.mark.parametrize("favoured", [None, 3], ids=["absent class not predicted", "absent class predicted"])
def test_segmentation_metrics_are_those_of_a_confusion_matrix(tmp_path: Path, favoured: int | None) -> None:
    """mIoU to 1e-6, with ignored pixels, masks larger than the input, and classes that no mask holds.

    A class that neither a mask nor a prediction holds does not count; one that is only predicted counts as 0.
    """
    write_masked(tmp_path, [(48, 48), (64, 64), (48, 48), (96, 96)])
    task = Segment(config_of(tmp_path, "segment", "data=street", "init=scratch"), None)
    with_random_weights(task)
    classifier = task.module.head.classifier
    with torch.no_grad():
        classifier.bias[3:] = -1e4
        if favoured is not None:
            classifier.weight[favoured], classifier.bias[favoured] = (
                classifier.weight[0],
                classifier.bias[0] + 0.1,
            )
    pairs = predictions(task)
    counts = confusion_of(pairs, 5)
    assert any((truth == IGNORE).any() for truth, _ in pairs)
    assert counts.sum(1)[3:].tolist() == [0, 0]
    assert [(counts[:, 3].sum() > 0), counts[:, 4].sum()] == [favoured is not None, 0]
    found = task.evaluate(World(), CPU)
    assert found["miou"] == pytest.approx(miou_of(counts), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(counts.trace() / counts.sum(), abs=1e-6)
    everywhere = int(counts.sum(1).argmax())
    majority = confusion_of([(truth, np.full_like(truth, everywhere)) for truth, _ in pairs], 5)
    assert found["miou_majority"] == pytest.approx(miou_of(majority), abs=1e-6)


def test_segmentation_of_digits_is_that_of_a_confusion_matrix(digits_root: Path) -> None:
    """The same on the embedded data, with all eleven classes."""
    task = Segment(config_of(digits_root, "segment", "init=scratch"), None)
    with_random_weights(task)
    pairs = predictions(task)
    counts = confusion_of(pairs, 11)
    found = task.evaluate(World(), CPU)
    assert found["miou"] == pytest.approx(miou_of(counts), abs=1e-6)
    background = confusion_of([(truth, np.zeros_like(truth)) for truth, _ in pairs], 11)
    assert found["miou_majority"] == pytest.approx(miou_of(background), abs=1e-6)


def test_oblong_photographs_count_every_pixel(tmp_path: Path) -> None:
    """Images wider or higher than the window are scored whole: all labelled pixels enter the accuracy."""
    write_masked(tmp_path, [(48, 64), (80, 48), (96, 148)])
    task = Segment(config_of(tmp_path, "segment", "data=street", "init=scratch"), None)
    with torch.no_grad():
        for parameter in task.module.head.classifier.parameters():
            parameter.zero_()
        task.module.head.classifier.bias[1] = 1.0
    masks = [mask.numpy() for _, mask in images_of(task)]
    labelled = sum(int((mask != IGNORE).sum()) for mask in masks)
    expected = sum(int((mask == 1).sum()) for mask in masks) / labelled
    found = task.evaluate(World(), CPU)
    assert found["pixel_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert found["loss"] == pytest.approx(np.log(np.e + 4) - expected, abs=1e-5)


def test_segmentation_loss_is_the_labelled_sum_over_all_pixels(digits_root: Path) -> None:
    """Ignored pixels add nothing, and the divisor does not depend on how the batch is cut."""
    task = Segment(config_of(digits_root, "segment", "init=scratch", "model.rope_rescale=1"), None)
    with_random_weights(task)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 3, 48, 48, generator=generator)
    masks = torch.randint(0, 11, (2, 48, 48), generator=generator)
    masks[0, :30] = IGNORE
    log_probabilities = task.module.logits(images).log_softmax(1).movedim(1, -1)
    labelled = masks != IGNORE
    expected = -log_probabilities[labelled].gather(1, masks[labelled][:, None]).sum() / masks.numel()
    torch.testing.assert_close(task.module(images, masks), expected, rtol=1e-4, atol=1e-5)


def test_batch_without_a_labelled_pixel_teaches_nothing(digits_root: Path) -> None:
    """A crop that is all unlabelled gives loss 0 and gradient 0, not a division by zero."""
    task = Segment(config_of(digits_root, "segment", "init=scratch"), None)
    loss = task.module(torch.randn(1, 3, 48, 48), torch.full((1, 48, 48), IGNORE))
    loss.backward()
    assert loss.item() == 0
    gradients = [parameter.grad for parameter in task.module.parameters() if parameter.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize(
    ("depth", "levels"),
    [(12, [2, 5, 8, 11]), (24, [5, 11, 17, 23]), (32, [7, 15, 23, 31]), (6, [1, 2, 4, 5]), (4, [0, 1, 2, 3])],
)
def test_feature_levels_are_spread_evenly(depth: int, levels: list[int]) -> None:
    """Every quarter of the depth gives one map; 12 and 24 blocks as in MAE's and BEiT's segmentation."""
    assert quarter_blocks(depth) == levels


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_shallow_backbones_have_four_maps_too(digits_root: Path, depth: int) -> None:
    """Fewer than four blocks give some map twice; the last one is always the last block's."""
    levels = quarter_blocks(depth)
    assert len(levels) == 4
    assert levels == sorted(levels)
    assert levels[-1] == depth - 1
    assert set(levels) == set(range(depth))
    task = Segment(config_of(digits_root, "segment", "init=scratch", f"model.depth={depth}"), None)
    with torch.no_grad():
        assert task.module.logits(torch.zeros(1, 3, 48, 48)).shape == (1, 11, 48, 48)
