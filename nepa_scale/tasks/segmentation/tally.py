"""What evaluating segmentation counts, one image at a time, from its scores in one or more forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from nepa_scale.data.decode import IGNORE
from nepa_scale.tasks.segmentation import confusion

STRIP_ROWS = 64


class Variant(NamedTuple):
    """A form in which an image is scored: its shorter side relative to image_size, and mirrored or not."""

    scale: float
    mirrored: bool


PLAIN = Variant(1.0, mirrored=False)
#: mmsegmentation's test-time augmentation.
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
MULTI_SCALE = tuple(Variant(scale, mirrored) for scale in SCALES for mirrored in (False, True))


class Tally:
    """Confusion of the plain form, that of the mean over all forms, and the plain form's loss."""

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

    def figures(self) -> dict[str, float]:
        """The metrics of all images counted."""
        plain, merged = self.plain.confmat, self.merged.confmat
        found = {
            "miou": confusion.miou(plain),
            "pixel_accuracy": confusion.pixel_accuracy(plain),
            "mean_accuracy": confusion.mean_accuracy(plain),
            "loss": float(self._loss / plain.sum()),
            "miou_majority": confusion.majority_miou(plain),
        }
        if len(self._variants) > 1:
            found["miou_multi_scale"] = confusion.miou(merged)
            found["pixel_accuracy_multi_scale"] = confusion.pixel_accuracy(merged)
        return found


def _strips(scores: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of views of some rows of two tensors [..., H, W]."""
    return zip(scores.split(STRIP_ROWS, dim=-2), other.split(STRIP_ROWS, dim=-2), strict=True)


def _add_probabilities(total: Tensor, scores: Tensor) -> None:
    for sums, part in _strips(total, scores):
        sums.add_(part.softmax(dim=0))


def _cross_entropy(scores: Tensor, mask: Tensor) -> Tensor:
    return F.cross_entropy(scores[None], mask[None], ignore_index=IGNORE, reduction="sum").double()
