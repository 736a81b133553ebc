"""Image operations that are named in the errors they raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment

from nepa_scale.data.decode import BadImageError, first_line
from nepa_scale.utils.errors import is_out_of_memory

#: Settings without which an operation is not done.
SWITCHES = {
    "RandAugment": "classify.auto_augment=null",
    "AutoAugment": "classify.auto_augment=null",
    "AugMixAugment": "classify.auto_augment=null",
    "RandomErasing": "classify.random_erasing=0",
    "PhotometricDistortion": "segment.photometric=false",
}


class Steps:
    """Operations one after the other, on an image or on several inputs alike."""

    def __init__(self, operations: Sequence[Callable[..., Any]]) -> None:
        self._operations = operations

    def __call__(self, *items: Any) -> Any:
        for operation in self._operations:
            with named(type(operation).__name__):
                done = operation(*items)
            items = done if len(items) > 1 else (done,)
        return items if len(items) > 1 else items[0]


@contextmanager
def named(operation: str) -> Iterator[None]:
    """Note on an exception in which operation it was raised, the innermost first."""
    try:
        yield
    except Exception as error:
        error.add_note(operation)
        raise


def applied(transform: Callable[..., Any], pixels: NDArray[np.uint8], *others: NDArray[np.uint8]) -> Any:
    """The transform of an image's pixels [H, W, 3], and of what belongs to it.

    Raises ``BadImageError`` for whatever the transform raises, naming the operation and what helps.
    """
    try:
        return transform(pixels, *others)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        operations = getattr(error, "__notes__", [type(transform).__name__])
        helps = [f"{SWITCHES[name]} leaves it out" for name in operations if name in SWITCHES]
        remedy = "; ".join([*helps, "constraints.txt names the versions with which every operation was tried"])
        height, width = pixels.shape[:2]
        raise BadImageError(
            f"{' of '.join(operations)} fails on the image of {width}x{height} pixels"
            f" ({type(error).__name__}: {first_line(error)}); {remedy}"
        ) from None


def prepare_policy(step: Any) -> None:
    """Name the operations of timm's augmentation policies in errors, and let them posterise to any number of bits."""
    for operation in _operations(step):
        function = posterise if operation.aug_fn is auto_augment.posterize else operation.aug_fn
        operation.aug_fn = partial(_apply, operation.name, function)


def posterise(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    """timm's operation, which leaves black where it keeps no bit.

    So did Pillow before version 13, which refuses less than one. timm asks for that at full magnitude.
    """
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    kept: Image.Image = auto_augment.posterize(image, bits_to_keep)
    return kept


def _operations(step: Any) -> list[Any]:
    """The operations that a step of timm's transform draws from, if it is a policy."""
    if isinstance(step, auto_augment.AutoAugment):
        return [operation for together in step.policy for operation in together]
    policies = auto_augment.RandAugment, auto_augment.AugMixAugment
    return list(step.ops) if isinstance(step, policies) else []


def _apply(name: str, function: Callable[..., Any], image: Any, *arguments: float, **options: Any) -> Any:
    with named(f"{name}({', '.join(map(str, arguments))})"):
        return function(image, *arguments, **options)
