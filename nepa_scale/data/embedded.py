"""What the embedded data set contains, known before it is written. Standard library only."""

from __future__ import annotations

from typing import Any

from nepa_scale.data.info import DatasetInfo, make_info, parse_info

EMBEDDED_NAME = "digits"
DEFAULT_ROOT = "data"  # the only root it is written under on demand
NUM_TRAIN = 4096
NUM_VALIDATION = 1024
IMAGE_SIZE = 32
SHARD_SIZE = 1024
DIGITS = tuple(str(digit) for digit in range(10))


def embedded_content(
    *,
    num_train: int = NUM_TRAIN,
    num_validation: int = NUM_VALIDATION,
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
    shard_size: int = SHARD_SIZE,
) -> dict[str, Any]:
    """Return the ``_info.json`` content of the digit scenes made with these settings."""
    return make_info(
        EMBEDDED_NAME,
        split_sizes={"train": num_train, "validation": num_validation},
        shard_size=shard_size,
        class_names=DIGITS,
        mask_class_names=("background", *DIGITS),
        image_size=image_size,
        seed=seed,
        version=1,  # raised whenever the same settings give other images
    )


def embedded_info() -> DatasetInfo:
    """Return what the embedded data set holds by default."""
    return parse_info(embedded_content(), EMBEDDED_NAME)


def embedded_class_sizes() -> list[int]:
    """Return how many training scenes each digit names by default: they take turns."""
    return [len(range(digit, NUM_TRAIN, len(DIGITS))) for digit in range(len(DIGITS))]
