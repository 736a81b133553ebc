"""Segmentation evaluated a second time, in numpy: windows, blending, enlarging, confusion matrix, figures.

Only the model's scores of one window come from the project. Everything is in double precision: in single precision
the order of additions decides ties between classes. Run as a script it is one rank of a distributed evaluation.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from small_tasks import config_of, images_of, with_random_weights

from nepa_scale.distributed.world import read_environment
from nepa_scale.tasks.segment import Segment

IGNORE = 255
NAMES = ["sky", "wall", "road", "lamp", "boat"]
Scores = NDArray[np.float64]


def write_masked(root: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """A data set ``street``: images of several sizes, masks of classes 0 to 2 of 5 and unlabelled pixels."""
    folder = root / "street"
    folder.mkdir(parents=True)
    splits = {}
    for split in ("train", "validation"):
        filename = f"{split}-000000.tar"
        splits[split] = {"num_samples": len(sizes), "filenames": [filename], "shard_lengths": [len(sizes)]}
        with tarfile.open(folder / filename, "w") as archive:
            for index, (height, width) in enumerate(sizes):
                rng = np.random.default_rng([index, len(split)])
                pixels = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
                blocks = rng.integers(4, size=(-(-height // 4), -(-width // 4)))
                mask = np.kron(blocks, np.ones((4, 4))).astype(np.uint8)[:height, :width]
                for extension, array in (("png", pixels), ("seg.png", mask)):
                    buffer = io.BytesIO()
                    Image.fromarray(array).save(buffer, "PNG")
                    member = tarfile.TarInfo(f"{index:04d}.{extension}")
                    member.size = buffer.tell()
                    archive.addfile(member, io.BytesIO(buffer.getvalue()))
    (folder / "_info.json").write_text(json.dumps({"mask_class_names": NAMES, "splits": splits}))


def double_task(root: Path, *words: str, favoured: Sequence[int], num_images: int | None = None) -> Segment:
    """The task with random weights in double precision, predicting ``favoured`` only, on the first images.

    On the first image these classes have equal mean scores: random ones would let a single class win everywhere.
    """
    task = with_random_weights(Segment(config_of(root, "segment", "init=scratch", *words), None))
    module = task.module.double().eval()
    with torch.no_grad():
        means = module.logits(task.eval_data[0, 0][0][0][None]).mean((0, 2, 3))
        module.head.classifier.bias -= 1e3
        module.head.classifier.bias[list(favoured)] += 1e3 - means[list(favoured)]
    if num_images is not None:
        task.eval_data.indices = np.arange(num_images)
    return task


def spans(side: int, window: int) -> list[tuple[int, int]]:
    """Begin and end of the windows on one side, by mmsegmentation's formula for a stride of two thirds."""
    stride = window * 2 // 3
    count = max(side - window + stride - 1, 0) // stride + 1
    ends = [min(index * stride + window, side) for index in range(count)]
    return [(max(end - window, 0), end) for end in ends]


def window_scores(task: Segment, image: NDArray[np.float32]) -> Scores:
    """Scores of an image [3, h, w]: the mean over windows, each scored alone."""
    section = task.section
    window = max(image.shape) if section.eval_mode == "whole" else section.image_size
    total, hits = np.zeros((task.module.head.classifier.out_channels, *image.shape[1:])), np.zeros(image.shape[1:])
    for top, bottom in spans(image.shape[1], window):
        for left, right in spans(image.shape[2], window):
            piece = torch.from_numpy(image[:, top:bottom, left:right].copy())
            with torch.no_grad():
                total[:, top:bottom, left:right] += task.module.logits(piece[None])[0].numpy()
            hits[top:bottom, left:right] += 1
    return total / hits


def enlarged(scores: Scores, height: int, width: int) -> Scores:
    """Bilinear interpolation [C, h, w] -> [C, height, width] between the centres of pixels."""

    def weights(length: int, target: int) -> NDArray[np.float64]:
        matrix = np.zeros((target, length))
        for index in range(target):
            place = max((index + 0.5) * length / target - 0.5, 0)
            below = min(int(place), length - 1)
            matrix[index, below] += 1 - (place - below)
            matrix[index, min(below + 1, length - 1)] += place - below
        return matrix

    return weights(scores.shape[1], height) @ scores @ weights(scores.shape[2], width).T


def log_softmax(scores: Scores) -> Scores:
    """Logarithms of the probabilities over the first axis."""
    shifted = scores - scores.max(0)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(0)))


def confusion_of(pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], classes: int) -> NDArray[np.int64]:
    """Pixels by [true class, predicted class], without the ignored ones."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    for truth, predicted in pairs:
        labelled = truth != IGNORE
        np.add.at(counts, (truth[labelled], predicted[labelled]), 1)
    return counts


def iou_of(counts: NDArray[np.int64]) -> list[float | None]:
    """IoU of each class, None for one in neither masks nor predictions."""
    unions = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return [float(hit / union) if union else None for hit, union in zip(counts.diagonal(), unions, strict=True)]


def miou_of(counts: NDArray[np.int64]) -> float:
    """Mean IoU over the classes that occur in masks or predictions."""
    return float(np.mean([iou for iou in iou_of(counts) if iou is not None]))


def figures(task: Segment) -> tuple[dict[str, float], list[float | None]]:
    """What evaluating all validation images should give, and the IoU of each class."""
    classes = task.module.head.classifier.out_channels
    task.module.eval()
    plain, merged, losses, labelled = [], [], 0.0, 0
    for images, mask in images_of(task):
        truth, probabilities = mask.numpy(), 0.0
        for scale, image in zip((0.5, 0.75, 1, 1.25, 1.5, 1.75) if len(images) > 1 else (1,), images, strict=True):
            pixels = image.numpy()
            upright = enlarged(window_scores(task, pixels), *truth.shape)
            if scale == 1:
                plain.append((truth, upright.argmax(0)))
                rows, columns = np.nonzero(truth != IGNORE)
                losses -= log_softmax(upright)[truth[rows, columns], rows, columns].sum()
                labelled += len(rows)
            if len(images) > 1:
                mirrored = enlarged(window_scores(task, pixels[:, :, ::-1])[:, :, ::-1], *truth.shape)
                probabilities = probabilities + np.exp(log_softmax(upright)) + np.exp(log_softmax(mirrored))
        if len(images) > 1:
            merged.append((truth, probabilities.argmax(0)))
    counts = confusion_of(plain, classes)
    pixels_per_class = counts.sum(1)
    present = pixels_per_class > 0
    found = {
        "miou": miou_of(counts),
        "pixel_accuracy": counts.trace() / counts.sum(),
        "mean_accuracy": (counts.diagonal()[present] / pixels_per_class[present]).mean(),
        "loss": losses / labelled,
        "miou_majority": pixels_per_class.max() / pixels_per_class.sum() / present.sum(),
    }
    if merged:
        together = confusion_of(merged, classes)
        found["miou_multi_scale"] = miou_of(together)
        found["pixel_accuracy_multi_scale"] = together.trace() / together.sum()
    return found, iou_of(counts)


def main(root: Path, evaluations: list[dict[str, Any]]) -> None:
    """Evaluate as one rank of a process group and print the figures of each evaluation in a line."""
    from nepa_scale.distributed import process_group

    world = read_environment()
    device = process_group.initialise(world)
    for evaluation in evaluations:
        words = evaluation.pop("words")
        task = double_task(root, *words, **evaluation)
        found = task.evaluate(world, device)
        print(json.dumps([found, task.details]), flush=True)
    process_group.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
