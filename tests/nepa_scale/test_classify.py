"""Classification: what the head computes, and its metrics against sklearn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from small_tasks import CPU, config_of, images_of, with_random_weights

from nepa_scale.distributed.world import World
from nepa_scale.tasks.classify import Classify


def collected_logits(task: Classify) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits and labels of the validation images, image by image, from the parts of the classifier."""
    module, rows, labels = task.module.eval(), [], []
    with torch.no_grad():
        for image, label in images_of(task):
            tokens = task.backbone.forward_features(image[None])[0, 1:]
            mean = tokens.mean(0)
            normed = (mean - mean.mean()) / mean.var(correction=0).sqrt() * module.fc_norm.weight + module.fc_norm.bias
            rows.append((module.head.weight @ normed + module.head.bias).double().numpy())
            labels.append(label)
    return np.array(rows), np.array(labels)


def test_classification_metrics_are_those_of_sklearn(digits_root: Path) -> None:
    """Accuracy, top-5, loss and majority share of the split, from logits computed one image at a time."""
    task = Classify(config_of(digits_root, "classify", "init=scratch"), None)
    with_random_weights(task)
    logits, labels = collected_logits(task)
    found = task.evaluate(World(), CPU)
    classes = np.arange(10)
    assert found["top1"] == pytest.approx(accuracy_score(labels, logits.argmax(1)), abs=1e-9)
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=classes), abs=1e-9)
    probabilities = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    assert found["loss"] == pytest.approx(log_loss(labels, probabilities, labels=classes), abs=1e-4)
    assert found["top1_majority"] == max(Counter(labels.tolist()).values()) / len(labels)
    assert 0 < found["top1"] < found["top5"] < 1


def test_fresh_classifier_knows_nothing(digits_root: Path) -> None:
    """The head starts at zero: before training every class is equally likely."""
    task = Classify(config_of(digits_root, "classify", "init=scratch"), None)
    assert task.evaluate(World(), CPU)["loss"] == pytest.approx(np.log(10), abs=1e-6)


def test_classification_loss_smooths_labels(digits_root: Path) -> None:
    """The training loss is cross-entropy to 1 - e on the label plus e / C on every class."""
    words = ["init=scratch", "classify.label_smoothing=0.2", "model.rope_rescale=1"]
    task = Classify(config_of(digits_root, "classify", *words), None)
    with_random_weights(task)
    images = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([3, 0, 9, 3])
    targets = 0.8 * F.one_hot(labels, 10) + 0.02
    expected = -(targets * task.module.logits(images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(task.module(images, labels), expected)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_have_mixed_labels(digits_root: Path, kind: str) -> None:
    """With zero logits the loss is log C whatever the targets, so mixed targets still sum to one."""
    task = Classify(config_of(digits_root, "classify", "init=scratch", f"classify.{kind}=1.0"), None)
    images = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    given = images.clone()
    loss = task.module(given, torch.tensor([3, 0, 9, 3]))
    assert loss.item() == pytest.approx(np.log(10), abs=1e-5)
    assert not torch.equal(given, images)
